"""Options per client and per call: headers, raw responses, the log."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from screening_client import (
    AsyncClient,
    Client,
    ClientStateError,
    ConfigurationError,
    InputError,
    InvalidRequest,
    RawResponse,
    TimedOut,
    Unavailable,
    UnexpectedAnswer,
)
from screening_client.log import LOGGER

both = pytest.mark.parametrize("kind", [Client, AsyncClient])


def asked(kind: type[Client | AsyncClient], change: Any, call: Any, **options: Any) -> Any:
    """Return the result of `call(change(client))` for either client."""
    if issubclass(kind, Client):
        with kind(**options) as client:
            return call(change(client))

    async def run() -> Any:
        async with AsyncClient(**options) as client:
            return await call(change(client))

    return asyncio.run(run())


@both
def test_options_hold_for_the_changed_client_alone(server: Any, question: Any, kind: Any) -> None:
    client = kind(base_url=server.url, api_key="first", default_headers={"X-Team": "a", "X-Shop": "1"}, max_retries=5)
    changed = client.with_options(api_key="second", default_headers={"x-team": "b"}, max_retries=0, timeout=3)
    settings = changed._settings
    assert (settings.api_key, settings.max_retries, settings.timeout.total) == ("second", 0, 3)
    assert dict(settings.headers) | {"user-agent": ""} == {
        "user-agent": "",
        "authorization": "Bearer second",
        "x-shop": "1",
        "x-team": "b",
    }
    assert client._settings.headers["X-Team"] == "a" and client._settings.max_retries == 5
    same = client.with_options()._settings
    assert (same.api_key, same.max_retries, same.headers) == ("first", 5, client._settings.headers)
    for wrong in ({"max_retries": -1}, {"timeout": 0}, {"api_key": "two words"}, {"default_headers": {"Host": "x"}}):
        with pytest.raises(InputError):
            client.with_options(**wrong)


def test_a_changed_client_shares_the_connections_and_does_not_close_them(server: Any, question: Any) -> None:
    with Client(base_url=server.url) as client:
        with client.with_options(max_retries=0) as changed:
            changed.screen(**question)
            assert changed._connections is client._connections
        client.screen(**question)
    with pytest.raises(ClientStateError):
        changed.screen(**question)


@both
def test_headers_of_the_client_and_of_the_call_are_sent(server: Any, question: Any, kind: Any, quick: None) -> None:
    server.replies = [server.problem(503), server.good()]
    asked(
        kind,
        lambda client: client,
        lambda client: client.screen(**question, extra_headers={"X-Shop": "2", "Authorization": "Basic eA=="}),
        base_url=server.url,
        api_key="key",
        default_headers={"X-Team": "a", "x-shop": "1"},
    )
    for received in server.received:
        headers = {name.lower(): value for name, value in received.headers.items()}
        assert (headers["x-team"], headers["x-shop"], headers["authorization"]) == ("a", "2", "Basic eA==")


@both
def test_a_threshold_is_sent_where_one_is_given(server: Any, question: Any, kind: Any) -> None:
    for threshold in (None, 0, 0.75):
        asked(kind, lambda c: c, lambda c, t=threshold: c.screen(**question, review_below=t), base_url=server.url)
    without, zero, some = (received.body for received in server.received)
    assert b"review_below" not in without
    assert b'name="review_below"\r\n\r\n0.0\r\n' in zero and b'name="review_below"\r\n\r\n0.75\r\n' in some
    for wrong in (-0.1, 1.1, float("nan"), "0.5", True):
        with pytest.raises(InputError, match="review_below"):
            asked(kind, lambda c: c, lambda c, t=wrong: c.screen(**question, review_below=t), base_url=server.url)


@both
def test_a_raw_response_has_headers_bytes_and_the_result(server: Any, question: Any, kind: Any, quick: None) -> None:
    good = server.good()
    headers = {**good.headers, "X-Request-Id": "mine.1", "Idempotent-Replayed": "true"}
    server.replies = [server.problem(503), type(good)(200, good.body, headers)]
    response = asked(
        kind,
        lambda client: client.with_raw_response,
        lambda raw: raw.screen(**question, request_id="mine.1", extra_headers={"X-Shop": "2"}),
        base_url=server.url,
    )
    assert isinstance(response, RawResponse) and server.received[1].headers["X-Shop"] == "2"
    assert (response.status, response.content, response.request_id) == (200, good.body, "mine.1")
    assert response.headers["idempotent-replayed"] == "true"
    assert response.parse().choice == "C"


@both
def test_a_raw_response_raises_like_a_result(server: Any, question: Any, kind: Any) -> None:
    server.replies = [server.problem(422)]
    with pytest.raises(InvalidRequest):
        asked(kind, lambda c: c.with_raw_response, lambda raw: raw.screen(**question), base_url=server.url)
    server.replies = [type(server.good())(200, b"not JSON")]
    response = asked(kind, lambda c: c.with_raw_response, lambda raw: raw.screen(**question), base_url=server.url)
    with pytest.raises(UnexpectedAnswer):
        response.parse()


def test_the_user_agent_names_the_package_python_and_the_platform(server: Any, question: Any) -> None:
    with Client(base_url=server.url) as client:
        client.screen(**question)
        client.ready()
        client.screen(**question, extra_headers={"User-Agent": "shop/1"})
    ours, ready, theirs = (received.headers["User-Agent"] for received in server.received)
    assert ours == ready and ours.startswith("screening-client/") and theirs == "shop/1"
    assert all(part in ours for part in (platform.python_version(), platform.system(), platform.machine()))


@pytest.fixture
def fresh_logger() -> Iterator[None]:
    level, handlers = LOGGER.level, list(LOGGER.handlers)
    yield
    LOGGER.setLevel(level)
    LOGGER.handlers[:] = handlers


def test_debug_lines_tell_every_exchange_and_no_secret(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, fresh_logger: None, quick: None
) -> None:
    monkeypatch.setenv("SCREENING_LOG", "debug")
    server.replies = [server.problem(503), type(server.good())(drop=True), server.good()]
    address = server.url.replace("://", "://user:password@")
    with Client(base_url=address, api_key="api-key", default_headers={"X-Gateway": "gateway-secret"}) as client:
        client.screen(**question, request_id="mine.1", idempotency_key="idem-key", metadata={"sku": "private"})
        assert "password" not in repr(client)
    text = caplog.text
    for part in ("mine.1", "POST", "/screen", "status 503", "broke", "status 200", "C, confidence 0.93"):
        assert part in text
    for secret in ("api-key", "gateway-secret", "password", "idem-key", "private", "JFIF"):
        assert secret not in text


def test_info_is_a_line_per_call(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, fresh_logger: None
) -> None:
    monkeypatch.setenv("SCREENING_LOG", "INFO")
    with Client(base_url=server.url) as client:
        client.screen(**question)
    assert [record.levelno for record in caplog.records if record.name == LOGGER.name] == [logging.INFO]


@pytest.mark.slow
def test_the_log_goes_to_stderr_once_and_only_when_asked_for() -> None:
    program = """
from screening_client import AsyncClient, Client, ScreeningClientError
for _ in range(2):
    client = Client(base_url="http://127.0.0.1:1", max_retries=0)
    client.ready()
"""
    for level, lines in (("debug", 4), ("warning", 0), ("", 0)):
        environment = {**os.environ, "SCREENING_LOG": level}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert (done.stdout, len(done.stderr.splitlines())) == ("", lines)


@both
def test_an_unknown_log_level_is_refused(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREENING_LOG", "verbose")
    with pytest.raises(ConfigurationError, match=r"^SCREENING_LOG=verbose .* debug, info"):
        kind()


@pytest.mark.slow
@both
def test_the_timeout_of_a_changed_client_applies(server: Any, question: Any, kind: Any) -> None:
    server.replies = [type(server.good())(hang=True)]
    with pytest.raises(TimedOut):
        asked(kind, lambda c: c.with_options(timeout=1), lambda c: c.screen(**question), base_url=server.url)
    server.replies = [server.problem(503)]
    with pytest.raises(Unavailable):
        asked(kind, lambda c: c.with_options(max_retries=0), lambda c: c.screen(**question), base_url=server.url)
    assert len(server.received) <= 2, "neither is sent again"
