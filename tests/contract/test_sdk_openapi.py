"""The SDK agrees with the service's OpenAPI: the same requests and answers, and a class for each documented status."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from screening_client import (
    AnswerWarning,
    CheckpointInfo,
    Decision,
    DecisionPicture,
    DecisionSummary,
    Feedback,
    FeedbackKind,
    InputError,
    OptionVerdict,
    Screening,
    ScreenRequest,
    Timings,
    Usage,
    constants,
    decision_calls,
)
from screening_client.decision_calls import Filters
from screening_client.errors import CLASS_OF_STATUS, PROBLEM_PREFIX
from screening_client.request import Body, Mode
from screening_client.result import Choice, KnownIssue, Option, Outcome, parse_screening
from service.app import create_app
from service.config.settings import Settings
from service.engines.scripted_engine import ScriptedEngine
from service.errors import TYPE_PREFIX

OF_THE_EXCHANGE = {"request_id"}
"""Fields of `Screening` that are not in the body."""
OF_THE_CALL = {"timeout", "idempotency_key", "request_id"}
"""Fields of `ScreenRequest` that are headers or stay here."""


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    engine, folder = ScriptedEngine(latency_ms=0, start_ms=0, failure="none"), tmp_path_factory.mktemp("kept")
    kept = {"decisions": f"sqlite:///{folder}/decisions.db", "pictures": str(folder / "pictures")}
    return create_app(Settings(engine="scripted", **kept), engine).openapi()


@pytest.fixture
def screen(openapi: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = openapi["paths"]["/screen"]["post"]
    return operation


def properties(openapi: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of a schema, through its reference."""
    found: dict[str, Any] = resolved(openapi, schema)["properties"]
    return found


def resolved(openapi: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference points to, or the schema itself."""
    named: dict[str, Any] = openapi["components"]["schemas"]
    return named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def names(kind: type) -> set[str]:
    return {each.name for each in fields(kind)}


def enumerated(schema: dict[str, Any]) -> set[str]:
    """Values that a schema allows, directly or in one of its variants."""
    return {value for each in (schema, *schema.get("anyOf", ())) for value in each.get("enum", ())}


@pytest.fixture
def answer(openapi: dict[str, Any], screen: dict[str, Any]) -> dict[str, Any]:
    return properties(openapi, screen["responses"]["200"]["content"]["application/json"]["schema"])


@pytest.mark.slow
def test_the_result_has_the_fields_of_the_answer(answer: dict[str, Any]) -> None:
    assert names(Screening) - OF_THE_EXCHANGE == set(answer)


@pytest.mark.parametrize(("name", "kind"), [("checkpoint", CheckpointInfo), ("timings", Timings), ("usage", Usage)])
def test_inner_objects_have_the_same_fields(openapi: Any, answer: Any, name: str, kind: type) -> None:
    assert names(kind) == set(properties(openapi, answer[name]))


def test_an_option_has_the_same_fields(openapi: Any, answer: Any) -> None:
    assert names(OptionVerdict) == set(properties(openapi, answer["options"]["items"]))


def test_a_warning_has_the_same_fields(openapi: Any, answer: Any) -> None:
    if "warnings" in answer:
        assert names(AnswerWarning) == set(properties(openapi, answer["warnings"]["items"]))


def test_choices_are_the_same(answer: dict[str, Any]) -> None:
    assert enumerated(answer["choice"]) == set(get_args(Choice))


def test_options_outcomes_and_issues_are_the_same(openapi: Any, answer: Any) -> None:
    option = properties(openapi, answer["options"]["items"])
    assert enumerated(option["option"]) == enumerated(answer["acceptable"]["items"]) == set(get_args(Option))
    assert enumerated(answer["outcome"]) == set(get_args(Outcome))
    assert enumerated(resolved(openapi, option["issues"]["items"])) == set(get_args(KnownIssue))


def test_the_answer_s_example_is_read(openapi: dict[str, Any]) -> None:
    example = openapi["components"]["schemas"]["ScreenAnswer"]["example"]
    screening = parse_screening(example)
    assert screening.choice == example["choice"] and screening.raw == example


def test_an_issue_that_the_client_does_not_know_is_passed_on(openapi: dict[str, Any]) -> None:
    example = openapi["components"]["schemas"]["ScreenAnswer"]["example"]
    first, *others = example["options"]
    issues = ["physical_shadow", "a_later_dimension"]
    screening = parse_screening(example | {"options": [first | {"issues": issues}, *others]})
    assert screening.options["A"].issues == tuple(issues)


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data"])
def test_the_request_has_the_same_fields_and_modes(openapi: Any, screen: Any, content_type: str) -> None:
    asked = properties(openapi, screen["requestBody"]["content"][content_type]["schema"])
    assert names(ScreenRequest) - OF_THE_CALL == set(asked)
    assert set(asked["mode"]["enum"]) == set(get_args(Mode))
    assert asked["mode"]["default"] == next(each.default for each in fields(ScreenRequest) if each.name == "mode")


def test_the_form_that_is_sent_has_the_parts_of_the_form_that_is_asked(openapi: Any, screen: Any) -> None:
    asked = properties(openapi, screen["requestBody"]["content"]["multipart/form-data"]["schema"])
    body = Body(b"o", (b"a", b"b", b"c", b"d"), "cot", "{}", "key", "id", 0.8, locate=True)
    assert {name for name, _ in body.files} | set(body.fields) == set(asked)
    assert sum(name == "generated" for name, _ in body.files) == asked["generated"]["minItems"]


def test_the_headers_that_are_sent_are_documented(screen: dict[str, Any]) -> None:
    documented = {each["name"]: each["schema"]["pattern"] for each in screen["parameters"] if each["in"] == "header"}
    headers = Body(b"", (), "cot", "{}", "order-4711", "req_1").headers
    assert set(headers) == set(documented), "the other headers of the client are httpx's and the key"
    assert all(re.fullmatch(documented[name], value) for name, value in headers.items())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("DecisionSummary", DecisionSummary), ("DecisionPicture", DecisionPicture), ("Feedback", Feedback),
     ("Decision", Decision)],
)  # fmt: skip
def test_kept_decisions_have_the_same_fields(openapi: dict[str, Any], name: str, kind: type) -> None:
    assert names(kind) - {"raw"} == set(openapi["components"]["schemas"][name]["properties"])


def test_a_list_has_the_filters_of_the_service(openapi: dict[str, Any]) -> None:
    asked = {each["name"]: each for each in openapi["paths"]["/decisions"]["get"]["parameters"]}
    filters = Filters(
        since=datetime(2026, 1, 1, tzinfo=UTC), until=datetime(2026, 1, 1, tzinfo=UTC), checkpoint="sha256:0",
        choice="A", min_confidence=0.5, max_confidence=1, needs_review=True, product="p", caller="c",
    )  # fmt: skip
    assert set(decision_calls.page(filters.parameters(), 500, "scr_1").parameters) == set(asked)
    assert enumerated(asked["choice"]["schema"]) == set(get_args(Choice))
    with pytest.raises(InputError):
        decision_calls.page({}, asked["limit"]["schema"]["maximum"] + 1)


def test_calls_of_decisions_are_those_of_the_service(openapi: dict[str, Any]) -> None:
    feedback = decision_calls.feedback("scr_1", kind="shown", options="CA", comment="seen", idempotency_key=None)
    calls = [
        (decision_calls.page({}, 1), "/decisions"),
        (decision_calls.get("scr_1"), "/decisions/{decision}"),
        (decision_calls.picture("scr_1", 4), "/decisions/{decision}/pictures/{position}"),
        (feedback, "/decisions/{decision}/feedback"),
        (decision_calls.erase("scr_1"), "/decisions/{decision}"),
    ]
    for call, path in calls:
        assert call.path == path.format(decision="scr_1", position=4)
        assert str(call.expected) in openapi["paths"][path][call.method.lower()]["responses"]
    order = openapi["components"]["schemas"]["FeedbackRequest"]["properties"]
    assert feedback.body is not None and set(feedback.body) == set(order)
    assert set(order["kind"]["enum"]) == set(get_args(FeedbackKind))
    assert re.fullmatch(order["options"]["pattern"], feedback.body["options"])


def test_every_documented_status_has_a_class(openapi: dict[str, Any]) -> None:
    operations = [operation for path in openapi["paths"].values() for operation in path.values()]
    statuses = {int(status) for operation in operations for status in operation["responses"]}
    assert {400, 422, 429, 503} <= statuses
    assert {status for status in statuses if status >= 400} <= set(CLASS_OF_STATUS)


def test_every_status_in_the_prose_has_a_class(repository: Path) -> None:
    rows = re.findall(r"^\| (\d{3}(?: / \d{3})*) \|", (repository / "docs/http-api.md").read_text(), re.MULTILINE)
    statuses = {int(status) for row in rows for status in row.split(" / ")}
    assert {400, 401, 404, 405, 504} <= statuses
    assert statuses <= set(CLASS_OF_STATUS)


def test_problem_types_have_the_same_prefix() -> None:
    assert PROBLEM_PREFIX == TYPE_PREFIX


def test_the_client_waits_longer_than_the_service_s_deadline() -> None:
    """Otherwise the client would repeat a request while the service still computes its answer."""
    assert Settings(engine="scripted").deadline_seconds < constants.READ_TIMEOUT
