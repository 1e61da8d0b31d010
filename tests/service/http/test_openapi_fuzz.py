"""schemathesis: requests made from our own OpenAPI, valid and invalid, over a real socket.

Its pytest plugin is not used: it does not know pytest 9 yet. The operations are driven through hypothesis directly.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

EXAMPLES = {("POST", "/screen"): 100, ("GET", "/livez"): 3, ("GET", "/readyz"): 3, ("GET", "/startupz"): 3}
EXAMPLES |= {("GET", "/metrics"): 3, ("GET", "/admin/checkpoint"): 3, ("POST", "/admin/checkpoint"): 20}


@pytest.fixture(scope="session")
def api(scripted_service: Any) -> Any:
    return schemathesis.openapi.from_url(f"{scripted_service.base_url}/openapi.json")


def test_every_operation_is_fuzzed(api: Any) -> None:
    assert {(result.ok().method.upper(), result.ok().path) for result in api.get_all_operations()} == EXAMPLES.keys()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize(("method", "path"), EXAMPLES)
def test_every_answer_is_one_that_the_interface_promises(api: Any, method: str, path: str, mode: Any) -> None:
    if method == "GET" and mode is GenerationMode.NEGATIVE:
        return  # these take nothing that could be wrong

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES[method, path], suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    check()
