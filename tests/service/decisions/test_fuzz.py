"""Random requests to `/decisions`, valid and invalid: every answer is one that the interface promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.service.decisions.conftest import ADMIN_KEY, FEEDBACK_KEY, sha256
from tests.service.http.test_openapi_fuzz import CHECKS

pytestmark = pytest.mark.slow

OPERATIONS = [
    ("GET", "/decisions", FEEDBACK_KEY),
    ("GET", "/decisions/{decision}", FEEDBACK_KEY),
    ("GET", "/decisions/{decision}/pictures/{position}", FEEDBACK_KEY),
    ("POST", "/decisions/{decision}/feedback", FEEDBACK_KEY),
    ("DELETE", "/decisions/{decision}", ADMIN_KEY),
]


@pytest.fixture(scope="module")
def service(launch_service: Any, tmp_path_factory: pytest.TempPathFactory, make_sample: Any) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    variables = {
        "SCREENING_DECISIONS": f"sqlite:///{folder}/decisions.db",
        "SCREENING_PICTURES": str(folder / "pictures"),
        "SCREENING_FEEDBACK_KEYS": sha256(FEEDBACK_KEY),
        "SCREENING_ADMIN_KEYS": sha256(ADMIN_KEY),
    }
    with launch_service("--engine", "scripted", "--scripted-latency-ms", "1", variables=variables) as process:
        for seed in range(3):
            httpx.post(f"{process.base_url}/screen", json=make_sample(seed).json())
        yield process


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize(("method", "path", "key"), OPERATIONS, ids=lambda value: str(value))
def test_every_answer_is_one_that_the_interface_promises(service, method, path, key, mode) -> None:
    api = schemathesis.openapi.from_url(f"{service.base_url}/openapi.json")

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60, headers={"Authorization": f"Bearer {key}"})

    check()
