"""OpenAPI has all that a caller needs: names, descriptions, headers and the errors of each path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.app import create_app
from service.config.settings import Settings
from service.engines.scripted_engine import ScriptedEngine
from service.errors import MEDIA_TYPE, PROBLEMS
from service.schemas import ScreenAnswer


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schema of a service that has every path because it keeps decisions and lets people review them."""
    folder = tmp_path_factory.mktemp("decisions")
    kept = {"decisions": f"sqlite:///{folder}/decisions.db", "pictures": str(folder / "pictures"), "review": True}
    app = create_app(Settings(engine="scripted", **kept), ScriptedEngine())
    app.state.service.decisions.database.close()
    return app.openapi()


@pytest.fixture(scope="module")
def operations(schema) -> dict[str, Any]:
    paths = schema["paths"].items()
    return {f"{method} {path}": operation for path, methods in paths for method, operation in methods.items()}


def slugs(operation: dict[str, Any]) -> dict[str, set[str]]:
    """The problems of an operation by status."""
    return {
        status: set(response["content"][MEDIA_TYPE]["examples"])
        for status, response in operation["responses"].items()
        if not status.startswith("2")
    }


@pytest.mark.slow
def test_operations_have_short_names_summaries_and_tags(operations) -> None:
    names = [operation["operationId"] for operation in operations.values()]
    of_decisions = {"list_decisions", "get_decision", "get_decision_picture", "send_feedback", "erase_decision"}
    of_review = {
        "export_labels", "export_picture", "extend_lease",
        "get_leased_picture", "get_review", "get_reviewed_picture", "lease_tasks", "list_reviews", "make_tasks",
        "note_export", "review_statistics", "send_review", "sign_in", "sign_out", "skip_task",
    }  # fmt: skip
    of_all = {"get_checkpoint", "livez", "metrics", "readyz", "screen", "serve_checkpoint", "startupz"}
    assert sorted(names) == sorted(of_all | of_decisions | of_review)
    assert all(operation["summary"] and operation["tags"] for operation in operations.values())


def test_every_field_parameter_header_and_response_is_described(schema, operations) -> None:
    for name, component in schema["components"]["schemas"].items():
        for field, value in component.get("properties", {}).items():
            assert value.get("description"), f"{name}.{field}"
    for name, value in schema["components"]["headers"].items():
        assert value.get("description"), name
    for name, operation in operations.items():
        assert all(parameter["description"] for parameter in operation.get("parameters", ())), name
        for status, response in operation["responses"].items():
            assert response["description"] not in ("", "Successful Response"), (name, status)
    form = operations["post /screen"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert all(field["description"] for field in form.values())


def test_every_reference_can_be_resolved(schema) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()), set())
        return set().union(*map(references, value), set()) if isinstance(value, list) else set()

    for reference in references(json.loads(json.dumps(schema))):
        target = schema
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    assert "#/components/schemas/Problem" in references(schema)


def test_each_path_lists_its_own_errors(operations) -> None:
    assert slugs(operations["get /livez"]) == {"500": {"internal"}, "503": {"not-ready"}}
    assert slugs(operations["get /metrics"]) == {"500": {"internal"}}
    screen = slugs(operations["post /screen"])
    assert screen["503"] == {"not-ready", "decisions-unavailable"}, "a screening never gets swap-busy"
    assert {"invalid-request", "image-too-large", "picture-url-refused", "picture-fetch-failed"} < screen["422"]
    assert "409" not in screen and screen["403"] == {"forbidden", "insufficient-scope"}
    serve = slugs(operations["post /admin/checkpoint"])
    assert serve["409"] == {"checkpoint-refused"} and serve["503"] == {"not-ready", "swap-busy"}
    assert serve["422"] == {"invalid-request"} and "429" not in serve


def test_every_problem_that_is_answered_is_listed_by_some_path(operations) -> None:
    listed = {slug for operation in operations.values() for names in slugs(operation).values() for slug in names}
    assert {problem.slug for problem in PROBLEMS.values() if problem.status != 499} == listed


def test_responses_name_their_headers(operations) -> None:
    for name, operation in operations.items():
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in response["headers"]
            assert ("Retry-After" in response["headers"]) is (status in ("429", "503")), (name, status)
    responses = operations["post /screen"]["responses"]
    assert "Idempotent-Replayed" in responses["200"]["headers"]
    assert "WWW-Authenticate" in responses["401"]["headers"] and "Accept-Encoding" in responses["415"]["headers"]


def test_the_version_is_a_server(schema) -> None:
    assert [server["url"] for server in schema["servers"]] == ["/", "/v1"]


def test_the_example_of_an_answer_is_one(schema) -> None:
    example = schema["components"]["schemas"]["ScreenAnswer"]["example"]
    answer = ScreenAnswer.model_validate(example)
    assert answer.confidence == max(option.probability or 0 for option in answer.options)
