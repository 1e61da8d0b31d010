"""Random requests to `/review`, valid and invalid: every answer is one that the interface promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.service.decisions.conftest import ADMIN_KEY, sha256
from tests.service.http.test_openapi_fuzz import CHECKS

pytestmark = pytest.mark.slow

KEY = {"Authorization": f"Bearer {ADMIN_KEY}"}
OPERATIONS = {
    ("POST", "/review/session"), ("DELETE", "/review/session"), ("POST", "/review/leases"),
    ("GET", "/review/leases/{lease}/pictures/{number}"), ("POST", "/review/leases/{lease}/heartbeat"),
    ("DELETE", "/review/leases/{lease}"), ("POST", "/review/reviews"), ("GET", "/review/reviews"),
    ("GET", "/review/reviews/{review}"), ("GET", "/review/reviews/{review}/pictures/{number}"),
    ("POST", "/review/tasks"), ("GET", "/review/stats"), ("GET", "/review/export"),
    ("GET", "/review/export/pictures/{sha256}"), ("POST", "/review/exports"),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(launch_service: Any, tmp_path_factory: pytest.TempPathFactory, make_sample: Any) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    variables = {
        "SCREENING_DECISIONS": f"sqlite:///{folder}/decisions.db",
        "SCREENING_PICTURES": str(folder / "pictures"),
        "SCREENING_ADMIN_KEYS": sha256(ADMIN_KEY),
        "SCREENING_REVIEW": "true",
    }
    with launch_service("--engine", "scripted", "--scripted-latency-ms", "1", variables=variables) as process:
        for seed in range(3):
            httpx.post(f"{process.base_url}/screen", json=make_sample(seed).json())
        yield process


@pytest.fixture(scope="module")
def api(service: Any) -> Any:
    return schemathesis.openapi.from_url(f"{service.base_url}/openapi.json")


def test_every_operation_is_fuzzed(api: Any) -> None:
    found = {(result.ok().method.upper(), result.ok().path) for result in api.get_all_operations()}
    assert {one for one in found if one[1].startswith("/review")} == OPERATIONS


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS), ids=lambda value: str(value))
def test_every_answer_is_one_that_the_interface_promises(api, method, path, mode) -> None:
    if (method, path, mode) == ("DELETE", "/review/session", GenerationMode.NEGATIVE):
        return  # it takes nothing that could be wrong

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60, headers=KEY)

    check()
