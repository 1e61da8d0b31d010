"""Reviewers sign in by a cookie, which ends, is valid for nothing else, and works from this service's pages only."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from service.config.named_keys import ScopedKey
from service.http.auth import authorize, has_scope
from service.http.session_token import COOKIE, SECONDS, holder, issue
from tests.service.conftest import Running
from tests.service.http.test_auth import bearer
from tests.service.http.test_keys import line

HERE = {"Origin": "http://test"}


async def whoami(request: Request) -> dict[str, Any]:
    """Stands for every path of the review."""
    return {"name": authorize(request, "review"), "admin": has_scope(request, "admin")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(line("anna-key", "review", "anna") + line("lead-key", "admin", "lead") + line("shop-key"))
    return path


@pytest.fixture
def open_review(start, tmp_path: Path, file: Path):
    """A service with a path that reviewers may call."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Running]:
        stores = {"decisions": f"sqlite:///{tmp_path}/decisions.db", "pictures": str(tmp_path / "pictures")}
        async with start(**({"review": True, "keys_file": file} | stores | settings)) as running:
            running.app.add_api_route("/review/whoami", whoami, methods=["GET", "POST"])
            yield running

    return opened


async def sign_in(running: Running, key: str, **headers: str):
    return await running.client.post("/review/session", json={"key": key}, headers=HERE | headers)


@pytest.mark.anyio
@pytest.mark.parametrize(("key", "who"), [("anna-key", ("anna", False)), ("lead-key", ("lead", True))])
async def test_a_cookie_stands_for_the_key_under_review_and_nowhere_else(open_review, key, who) -> None:
    async with open_review() as running:
        signed_in = await sign_in(running, key)
        assert signed_in.status_code == 204
        seen = await running.client.get("/review/whoami")
        sent = await running.client.post("/review/whoami", headers=HERE)
        elsewhere = [await running.client.get(path) for path in ("/decisions", "/admin/checkpoint")]
    assert (seen.json()["name"], seen.json()["admin"]) == who and sent.json() == seen.json()
    assert [one.status_code for one in elsewhere] == [401, 401]


@pytest.mark.anyio
async def test_the_cookie_is_hidden_from_scripts_and_other_sites(open_review) -> None:
    async with open_review() as running:
        plain = (await sign_in(running, "anna-key")).headers["set-cookie"]
        # A proxy ends TLS: the service sees http, and the browser's origin is https.
        proxied = (await sign_in(running, "anna-key", Origin="https://test")).headers["set-cookie"]
    assert plain.startswith(f"{COOKIE}=") and "anna-key" not in plain
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={SECONDS}"} <= set(plain.split("; "))
    assert "Secure" in proxied.split("; ") and "Secure" not in plain


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("key", "status", "code"),
    [("wrong", 401, "unauthenticated"), ("shop-key", 403, "insufficient-scope"), ("", 422, "invalid-request")],
)
async def test_only_a_key_with_the_scope_signs_in(open_review, key, status, code) -> None:
    async with open_review() as running:
        answer = await sign_in(running, key)
    assert answer.status_code == status and answer.json()["type"].endswith(f":{code}")
    assert "set-cookie" not in answer.headers


@pytest.mark.anyio
@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://test:8080", "http://test.evil.example", "http://["]
)
async def test_a_page_of_another_origin_changes_nothing(open_review, origin) -> None:
    headers = {} if origin is None else {"Origin": origin}
    async with open_review() as running:
        assert (
            await running.client.post("/review/session", json={"key": "anna-key"}, headers=headers)
        ).status_code == 403
        await sign_in(running, "anna-key")
        answer = await running.client.post("/review/whoami", headers=headers)
        assert answer.status_code == 403 and answer.json()["type"].endswith(":cross-origin")
        assert "it must pass on the browser's Host header" in answer.json()["detail"]
        assert (await running.client.delete("/review/session", headers=headers)).status_code == 403
        with_key = await running.client.post("/review/whoami", headers=headers | bearer("anna-key"))
        assert with_key.status_code == 200, "a program with a bearer key has no origin"


@pytest.mark.anyio
async def test_signing_out_and_removing_the_key_end_a_session(open_review, file, wait_until) -> None:
    async with open_review() as running:
        await sign_in(running, "anna-key")
        cookie = running.client.cookies[COOKIE]
        assert (await running.client.delete("/review/session", headers=HERE)).status_code == 204
        assert (await running.client.get("/review/whoami")).status_code == 401
        running.client.cookies.set(COOKIE, cookie)
        assert (await running.client.get("/review/whoami")).status_code == 200
        file.write_text(line("lead-key", "admin", "lead"))
        for _ in range(2):
            running.app.state.keys.refresh()
        assert (await running.client.get("/review/whoami")).status_code == 401


def key(name: str, sha256: str, *scopes: Any) -> ScopedKey:
    return ScopedKey(name, sha256 * 64, frozenset(scopes))


def test_a_token_is_valid_for_its_key_until_it_ends() -> None:
    anna, ben, shop = key("anna", "a", "review"), key("ben", "b", "review"), key("anna", "a", "screen")
    token, now = issue(anna, 1000), 1000
    assert holder(token, [ben, anna], now) == anna and holder(token, [shop, anna], now) == anna
    assert holder(token, [anna], now + SECONDS - 1) == anna and holder(token, [anna], now + SECONDS) is None
    assert holder(token, [ben], now) is None and holder(token, [shop], now) is None
    later = re.sub(r"^\d+", str(now + SECONDS + 1), token)
    for forged in (later, token[:-1], token + "0", "", ".", "9" * 13 + token[5:], f"٣{token}"):
        assert holder(forged, [anna], now) is None, forged


LOCALHOST = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({}, {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
        ({"host": "0.0.0.0"}, {}, 403),
        ({}, {"Host": "rebound.evil.example", "Origin": "http://rebound.evil.example"}, 403),
        ({}, {"Origin": "http://evil.example"}, 403),
        ({}, {"Origin": "null"}, 403),
        ({}, {"Origin": ""}, 200),  # left out: a program, not a page
        ({}, {"X-Forwarded-For": "203.0.113.7"}, 403),
        ({}, {"X-Real-IP": "203.0.113.7"}, 403),
        ({}, {"X-Forwarded-Proto": "https"}, 403),
        ({"api_keys": "f" * 64}, {}, 403),
        ({"feedback_keys": "f" * 64}, {}, 403),
        ({"admin_keys": "f" * 64}, {}, 401),
    ],
    ids=str,
)
async def test_on_ones_own_machine_without_keys_nobody_signs_in(open_review, settings, headers, status) -> None:
    async with open_review(keys_file=None, **settings) as running:
        sent = {name: value for name, value in (LOCALHOST | headers).items() if value}
        answer = await running.client.post("/review/whoami", headers=sent)
    assert answer.status_code == status
    assert status != 200 or answer.json() == {"name": "local", "admin": False}


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
async def test_a_page_of_another_origin_reads_nothing_without_a_cookie(open_review, origin) -> None:
    """With `*`, a browser shows any page what the service answers to a request without a cookie."""
    here = {"Host": LOCALHOST["Host"]}
    async with open_review(keys_file=None, cors_origins="*") as running:
        foreign = await running.client.get("/review/whoami", headers=here | {"Origin": origin})
        own = [await running.client.get("/review/whoami", headers=headers) for headers in (here, LOCALHOST)]
    assert foreign.status_code == 403 and foreign.json()["type"].endswith(":cross-origin")
    assert [one.status_code for one in own] == [200, 200]


def test_without_decisions_there_is_nothing_to_review() -> None:
    from service.config.settings import SettingsError, load

    with pytest.raises(SettingsError, match="--review needs --decisions"):
        load({"engine": "scripted", "review": "true"})
