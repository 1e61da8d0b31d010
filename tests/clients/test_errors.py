"""Every failure has its class and carries the problem details of the service."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import screening_client
from screening_client import (
    Client,
    ConnectionFailed,
    InputError,
    InvalidRequest,
    ScreeningClientError,
    ServerError,
    StatusError,
    TimedOut,
    UnexpectedAnswer,
    errors,
)
from screening_client.errors import CLASS_OF_STATUS

PROXY_PAGE = b"<html><head><title>x</title></head><body><h1>Bad   Gateway</h1></body></html>"


def raised(server: Any, question: Any) -> ScreeningClientError:
    with Client(base_url=server.url, max_retries=0) as client, pytest.raises(ScreeningClientError) as caught:
        client.screen(**question)
    return caught.value


@pytest.mark.parametrize(("status", "kind"), CLASS_OF_STATUS.items())
def test_each_status_has_its_class_and_carries_the_problem(server: Any, question: Any, status: int, kind: type) -> None:
    server.replies = [server.problem(status, "some-slug", retry_after=3, request_id="req_7", picture="generated[1]")]
    error = raised(server, question)
    assert type(error) is kind and isinstance(error, StatusError)
    assert (error.status, error.type, error.code) == (status, "urn:screening:problem:some-slug", "some-slug")
    assert (error.title, error.detail, error.request_id) == ("A title", "A detail.", "req_7")
    assert (error.retry_after, error.picture) == (3.0, "generated[1]")
    assert all(part in str(error) for part in (str(status), "some-slug", "A title", "A detail", "req_7"))


@pytest.mark.parametrize(("status", "kind"), [(502, ServerError), (599, ServerError), (418, StatusError)])
def test_other_statuses_have_the_class_of_their_hundred(server: Any, question: Any, status: int, kind: type) -> None:
    server.replies = [server.problem(status)]
    assert type(raised(server, question)) is kind


@pytest.mark.parametrize("body", [PROXY_PAGE, b"", b"[]", b'"text"', b'{"type": 1, "detail": []}', b"\xff\xfe", b"{"])
@pytest.mark.parametrize("status", [404, 422, 503])
def test_a_body_that_is_not_a_problem_still_gives_the_class(
    server: Any, question: Any, status: int, body: bytes
) -> None:
    server.replies = [type(server.good())(status, body, {"Content-Type": "text/html", "X-Request-Id": "proxy-1"})]
    error = raised(server, question)
    assert type(error) is CLASS_OF_STATUS[status]
    assert (error.type, error.title, error.detail, error.request_id) == (None, None, None, "proxy-1")


def test_a_proxy_s_page_is_quoted_without_markup(server: Any, question: Any) -> None:
    server.replies = [type(server.good())(502, PROXY_PAGE, {"Content-Type": "text/html"})]
    assert "502: x Bad Gateway" in str(raised(server, question))


@pytest.mark.parametrize(("body", "slug"), [(PROXY_PAGE, None), (None, "not-found")])
def test_a_path_that_does_not_exist_leads_to_the_base_url(server: Any, question: Any, body: Any, slug: Any) -> None:
    server.replies = [server.problem(404, slug) if slug else type(server.good())(404, body)]
    assert "Check that base_url is the service's address without /screen" in str(raised(server, question))


def test_an_erased_decision_does_not_blame_the_base_url(server: Any, question: Any) -> None:
    server.replies = [server.problem(404, "decision-not-found")]
    assert "base_url" not in str(raised(server, question))


def test_tls_on_a_port_without_it_leads_to_http(server: Any, question: Any) -> None:
    address = server.url.replace("http://", "https://")
    with Client(base_url=address, max_retries=0) as client, pytest.raises(ConnectionFailed, match="write http://"):
        client.screen(**question)


def test_the_error_for_a_redirect_names_its_target(server: Any, question: Any) -> None:
    server.replies = [type(server.good())(308, b"", {"Location": "https://example.org/screen"})]
    assert "https://example.org/screen" in str(raised(server, question))


@pytest.mark.parametrize(
    "body", [PROXY_PAGE, b"", b"null", b"[]", b"{}", b'{"id": 4}', b'{"id": "x", "outcome": "answered"}']
)
def test_a_200_without_a_screening_is_never_a_decision(server: Any, question: Any, body: bytes) -> None:
    server.replies = [type(server.good())(200, body)]
    assert isinstance(raised(server, question), UnexpectedAnswer)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"choice": "E"}, "choice"),
        ({"choice": "AC"}, "choice"),
        ({"choice": None}, "choice"),
        ({"choice": ["A"]}, "choice"),
        ({"confidence": "high"}, "confidence"),
        ({"confidence": True}, "confidence"),
        ({"acceptable": "AC"}, "acceptable"),
        ({"needs_review": 1}, "needs_review"),
        ({"options": [{"option": "A"}]}, r"options\[0\].usable"),
        ({"options": ["A"]}, r"options\[0\]"),
        ({"usage": None}, "usage"),
        ({"checkpoint": {"name": "x", "version": 1}}, "checkpoint.version"),
    ],
)
def test_a_field_outside_the_contract_is_named(server: Any, question: Any, changes: Any, field: str) -> None:
    server.replies = [server.good(**changes)]
    error = raised(server, question)
    assert isinstance(error, UnexpectedAnswer)
    with pytest.raises(UnexpectedAnswer, match=f"{field} is not"):
        raise error


def test_a_damaged_encoding_is_an_unexpected_answer(server: Any, question: Any) -> None:
    server.replies = [type(server.good())(200, b"not gzip", {"Content-Encoding": "gzip"})]
    assert isinstance(raised(server, question), UnexpectedAnswer)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {line.strip("│├└─ ").split()[0] for line in (errors.__doc__ or "").splitlines() if line.strip("│├└─ ")}
    defined = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    assert defined <= drawn
    assert defined <= set(screening_client.__all__)


def test_errors_survive_being_sent_between_processes() -> None:
    error = InvalidRequest("x", status=422, problem_type="urn:screening:problem:y", request_id="req_1", retry_after=2)
    for each in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(each) is InvalidRequest and vars(each) == vars(error) and str(each) == str(error)
    assert str(pickle.loads(pickle.dumps(TimedOut("slow")))) == "slow"


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "localhost:8000"},
        {"base_url": "ftp://localhost"},
        {"base_url": "http://"},
        {"base_url": "http://host:port"},
        {"base_url": "http://host:65536"},
        {"base_url": "http://host/?query"},
        {"api_key": "two words"},
        {"api_key": "schlüssel"},
        {"api_key": "line\nbreak"},
        {"default_headers": {"X-Request-Id": "req_1"}},
        {"default_headers": {"content-length": "3"}},
        {"default_headers": {"two words": "x"}},
        {"default_headers": {"X-A": "line\nbreak"}},
        {"default_headers": {"X-A": 1}},
        {"default_headers": ["X-A"]},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Client(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "fast"}, "mode"),
        ({"metadata": ["list"]}, "metadata"),
        ({"metadata": {"x": object()}}, "metadata"),
        ({"metadata": {"x": float("nan")}}, "metadata"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "a b"}, "idempotency_key"),
        ({"request_id": "a/b"}, "request_id"),
        ({"request_id": "a\n"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"generated": [b"x"] * 3}, "exactly 4"),
        ({"original": b""}, "original"),
        ({"extra_headers": {"Idempotency-Key": "x"}}, "pass idempotency_key"),
        ({"extra_headers": {"X-A": "ä"}}, "X-A"),
    ],
)
def test_a_bad_argument_is_refused_before_any_network(server: Any, question: Any, arguments: Any, said: str) -> None:
    with Client(base_url=server.url) as client, pytest.raises(InputError, match=said):
        client.screen(**question | arguments)
    assert server.received == []
