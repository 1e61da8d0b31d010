"""Decisions through the SDK, against the real service with an SQLite store; and the bytes on the wire."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from screening_client import (
    AsyncClient,
    Client,
    Conflict,
    Decision,
    Forbidden,
    InputError,
    NotFound,
    UnexpectedAnswer,
    cli,
)
from screening_client.decisions import AsyncDecisions, Decisions
from tests.clients.conftest import GOOD, Reply, running_service

pytestmark = pytest.mark.slow

KEYS = {"feedback": "feedback-key", "admin": "admin-key"}


def test_both_clients_have_the_same_decision_methods() -> None:
    calls = [name for name in vars(Decisions) if not name.startswith("_")]
    assert {"list", "get", "picture", "feedback", "erase"} == set(calls)
    for name in calls:
        sync = str(inspect.signature(getattr(Decisions, name)))
        assert str(inspect.signature(getattr(AsyncDecisions, name))) == sync.replace(
            "-> 'Iterator", "-> 'AsyncIterator"
        )


@pytest.fixture(scope="module")
def keeping_service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that keeps its decisions in SQLite."""
    folder = tmp_path_factory.mktemp("keeping")
    hashes = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
    options = ["--decisions", f"sqlite:///{folder}/decisions.db", "--pictures", str(folder / "pictures")]
    options += ["--feedback-keys", f"shop:{hashes['feedback']}", "--admin-keys", f"lead:{hashes['admin']}"]
    with running_service(repository, folder / "log", "--scripted-latency-ms", "1", *options) as url:
        yield url


@pytest.fixture
def screened(keeping_service: str, five: tuple[bytes, ...]) -> Callable[..., str]:
    """Screen, wait until the decision is stored, and return its id."""

    def ask(**metadata: Any) -> str:
        with Client(base_url=keeping_service, api_key=KEYS["feedback"]) as client:
            identity = client.screen(original=five[0], generated=five[1:], metadata=metadata).id
            end = time.monotonic() + 60
            while True:
                try:
                    return client.decisions.get(identity).id
                except NotFound:
                    assert time.monotonic() < end, "the decision was not kept"
                    time.sleep(0.05)

    return ask


def test_a_decision_is_read_corrected_and_erased(keeping_service: str, screened: Any, five: tuple[bytes, ...]) -> None:
    identity = screened(product="SKU-1")
    with Client(base_url=keeping_service, api_key=KEYS["feedback"]) as client:
        given = client.decisions.feedback(identity, kind="verdict", options="CA", comment="ä\n😀")
        kept = client.decisions.get(identity)
        pictures = tuple(client.decisions.picture(identity, position) for position in range(5))
        with pytest.raises(Forbidden, match="lacks the scope 'admin'"):
            client.decisions.erase(identity)
        lead = client.with_options(api_key=KEYS["admin"])
        for _ in range(2):
            lead.decisions.erase(identity)
        with pytest.raises(NotFound, match="decision-not-found"):
            client.decisions.get(identity)
    assert kept.feedback == (given,) and (given.options, given.comment, given.caller) == ("AC", "ä\n😀", "shop")
    assert kept.answer.metadata == {"product": "SKU-1"} and kept.created_at.utcoffset() == timedelta(0)
    assert pictures == five
    assert [one.sha256 for one in kept.pictures] == [hashlib.sha256(data).hexdigest() for data in five]


def test_a_list_goes_over_all_pages(keeping_service: str, screened: Any) -> None:
    ids = [screened(product="SKU-2") for _ in range(5)]
    hour = timedelta(hours=1)

    async def twin() -> list[str]:
        async with AsyncClient(base_url=keeping_service, api_key=KEYS["feedback"]) as client:
            found = client.decisions.list(product="SKU-2", page_size=2)
            return [one.id async for one in found]

    with Client(base_url=keeping_service, api_key=KEYS["feedback"]) as client:

        def found(**filters: Any) -> list[str]:
            return [one.id for one in client.decisions.list(**{"product": "SKU-2", **filters})]

        now = datetime.now(timezone(hour))
        assert found(page_size=2) == found() == ids[::-1] == asyncio.run(twin())
        assert found(since=now - hour, until=now + hour) == ids[::-1]
        assert found(until=now - hour) == found(product="SKU-9") == found(max_confidence=0.0) == []
        chosen = client.decisions.get(ids[0]).answer
        assert found(choice=chosen.choice, needs_review=chosen.needs_review) == ids[::-1]


def test_the_async_client_reads_corrects_and_erases(keeping_service: str, screened: Any, five: Any) -> None:
    identity = screened()

    async def call() -> Decision:
        async with AsyncClient(base_url=keeping_service, api_key=KEYS["feedback"]) as client:
            given = await client.decisions.feedback(identity, kind="returned", options="N")
            assert await client.decisions.picture(identity, 4) == five[4]
            kept = await client.decisions.get(identity)
            assert kept.feedback == (given,)
            await client.with_options(api_key=KEYS["admin"]).decisions.erase(identity)
            with pytest.raises(NotFound):
                await client.decisions.picture(identity, 0)
            return kept

    assert asyncio.run(call()).feedback[0].options == "N"


def test_the_command_line_reads_corrects_and_erases(
    keeping_service: str, screened: Any, five: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    identity = screened(product="SKU-3")
    monkeypatch.setenv("SCREENING_BASE_URL", keeping_service)
    monkeypatch.setenv("SCREENING_API_KEY", KEYS["feedback"])

    def run(*words: str) -> str:
        assert cli.main(words) == cli.OK
        said: str = capsys.readouterr().out
        return said

    assert re.search(f"^{identity} .*SKU-3", run("decisions", "list", "--product", "SKU-3"), re.MULTILINE)
    listed = json.loads(run("decisions", "list", "--product", "SKU-3", "--since", "2026-01-01T00:00Z", "--json"))
    assert [one["id"] for one in listed["decisions"]] == [identity]
    assert json.loads(run("feedback", identity, "--shown", "C", "--json"))["kind"] == "shown"
    assert "verdict AC" in run(
        "feedback", identity, "--verdict", "AC", "--comment", "D \x1b[31m floats".replace("\x1b", "-")
    )
    said = run("decisions", "get", identity)
    assert "confidence" in said and "verdict AC" in said and "shown C" in said
    assert len(json.loads(run("decisions", "get", identity, "--json"))["feedback"]) == 2
    run("decisions", "picture", identity, "4", "--out", str(tmp_path / "d.jpg"))
    assert (tmp_path / "d.jpg").read_bytes() == five[4]
    assert "erased" in run("decisions", "erase", identity, "--api-key", KEYS["admin"])
    assert cli.main(["decisions", "get", identity]) == cli.FAILED and "decision-not-found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["feedback", "scr_1"], "--verdict"), (["feedback", "scr_1", "--verdict", "E"], "letters"),
     (["feedback", "scr_1", "--verdict", "A", "--shown", "A"], "not allowed"),
     (["decisions", "list", "--since", "yesterday"], "--since"), (["decisions", "get", "a/b"], "id of a decision"),
     (["decisions"], "required"), (["decisions", "picture", "scr_1", "5", "--out", "-"], "0 for the original")],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments_exit_with_2(server: Any, words: list[str], said: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SCREENING_BASE_URL", server.url)
    assert cli.main(words) == cli.USAGE
    assert said in capsys.readouterr().err and server.received == []


FEEDBACK = {
    "id": "fbk_1", "created_at": "2026-01-01T10:00:00Z", "caller": "", "kind": "shown", "options": "A", "comment": None,
}  # fmt: skip


def json_reply(body: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


@pytest.mark.usefixtures("quick")
def test_a_retried_piece_of_feedback_has_the_same_key(server: Any) -> None:
    server.replies = [Reply(drop=True), server.problem(503, retry_after=0), json_reply(FEEDBACK, 201)]
    with Client(base_url=server.url) as client:
        client.decisions.feedback("scr_1", kind="shown", options="A")
        client.decisions.feedback("scr_1", kind="shown", options="A", idempotency_key="mine")
    *first, other = server.received
    assert len(first) == 3 and len({each.headers["Idempotency-Key"] for each in first}) == 1
    assert len({each.body for each in first}) == 1 and len({each.headers["X-Request-Id"] for each in first}) == 1
    assert other.headers["Idempotency-Key"] == "mine"


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (404, NotFound), (409, Conflict)])
def test_a_status_has_its_class_and_the_request_id(server: Any, status: int, kind: Any) -> None:
    server.replies = [server.problem(status, request_id="req_9")]
    with Client(base_url=server.url, max_retries=0) as client, pytest.raises(kind) as caught:
        client.decisions.get("scr_1")
    assert caught.value.request_id == "req_9"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: d.list(since=datetime(2026, 1, 1)), "since"),  # noqa: DTZ001 - the fault that is tested
        (lambda d: d.list(choice="E"), "choice"),
        (lambda d: d.list(min_confidence=2), "min_confidence"),
        (lambda d: d.list(page_size=0), "page_size"),
        (lambda d: d.list(needs_review="yes"), "needs_review"),
        (lambda d: d.list(product="\ud800"), "product"),
        (lambda d: d.get(""), "id of a decision"),
        (lambda d: d.get("../admin"), "id of a decision"),
        (lambda d: d.picture("scr_1", 5), "position"),
        (lambda d: d.feedback("scr_1", kind="liked", options="A"), "kind"),
        (lambda d: d.feedback("scr_1", kind="shown", options=""), "options"),
        (lambda d: d.feedback("scr_1", kind="shown", options="AA"), "options"),
        (lambda d: d.feedback("scr_1", kind="shown", options="A", comment=1), "comment"),
        (lambda d: d.feedback("scr_1", kind="shown", options="A", idempotency_key="a b"), "idempotency_key"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_sent_are_refused(server: Any, call: Any, said: str) -> None:
    with Client(base_url=server.url) as client, pytest.raises(InputError, match=said):
        call(client.decisions)
    assert server.received == []


DECISION = {
    "id": "scr_1",
    "created_at": "2026-01-01T10:00:00.5Z",
    "caller": "",
    "answer": GOOD,
    "pictures": [],
    "feedback": [],
}


@pytest.mark.parametrize(
    ("body", "said"),
    [([], "a decision: the body"), (DECISION | {"created_at": "noon"}, "created_at"),
     (DECISION | {"created_at": "2026-01-01T10:00:00"}, "time zone"), (DECISION | {"answer": {}}, "checkpoint"),
     (DECISION | {"feedback": [FEEDBACK | {"kind": "liked"}]}, r"feedback\[0\].kind")],
    ids=lambda value: str(value)[-30:],
)  # fmt: skip
def test_an_answer_that_is_not_a_decision_is_unexpected(server: Any, body: Any, said: str) -> None:
    server.replies = [json_reply(body)]
    with Client(base_url=server.url) as client, pytest.raises(UnexpectedAnswer, match=said):
        client.decisions.get("scr_1")


def test_fields_of_later_services_stay_in_raw(server: Any) -> None:
    server.replies = [json_reply(DECISION | {"created_at": "2026-01-01T10:00:00Z", "later": 1})]
    with Client(base_url=server.url) as client:
        kept = client.decisions.get("scr_1")
    assert kept.raw["later"] == 1 and kept.created_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
