"""What the SDK and its command make of a key that is missing, unknown or of another scope, on the service's own app."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from screening_client import AsyncClient, Forbidden, NotFound, Unauthenticated, cli
from service.app import create_app
from service.config.settings import Settings
from service.engines.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http_client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A connection to a service with one key for each scope, which is its name."""
    scopes = ("screen", "feedback", "admin")
    lines = [f"{scope} {scope} {hashlib.sha256(scope.encode()).hexdigest()}\n" for scope in scopes]
    (tmp_path / "keys").write_text("".join(lines))
    stores = {"decisions": f"sqlite:///{tmp_path}/decisions.db", "pictures": str(tmp_path / "pictures")}
    app = create_app(Settings(engine="scripted", keys_file=tmp_path / "keys", **stores), ScriptedEngine(latency_ms=0))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("key", "error", "code"),
    [
        ("", Unauthenticated, "unauthenticated"),
        ("unknown", Unauthenticated, "unauthenticated"),
        ("screen", Forbidden, "insufficient-scope"),
        ("feedback", NotFound, "decision-not-found"),
        ("admin", NotFound, "decision-not-found"),
    ],
)
async def test_a_key_without_the_scope_is_forbidden_and_the_message_names_it(
    http_client: httpx.AsyncClient, key: str, error: Any, code: str
) -> None:
    client = AsyncClient(base_url="http://service", api_key=key, http_client=http_client)
    with pytest.raises(error) as caught:
        await client.decisions.get("scr_1")
    assert caught.value.code == code
    assert code == "decision-not-found" or "'feedback'" in str(caught.value)


async def test_erasing_needs_more_than_feedback(http_client: httpx.AsyncClient) -> None:
    with pytest.raises(Forbidden, match="'feedback' lacks the scope 'admin'"):
        await AsyncClient(base_url="http://service", api_key="feedback", http_client=http_client).decisions.erase("x")
    await AsyncClient(base_url="http://service", api_key="admin", http_client=http_client).decisions.erase("x")


@pytest.mark.parametrize("command", ["decisions", "feedback"])
async def test_help_names_the_scope(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "scope feedback" in " ".join(capsys.readouterr().out.split())
