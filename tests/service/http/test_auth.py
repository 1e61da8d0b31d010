"""Who may call what. Keys have names, for those who read logs; the keys themselves appear nowhere."""

from __future__ import annotations

import hashlib

import pytest

from tests.service.http.test_keys import line

pytestmark = pytest.mark.anyio


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_named_and_plain_keys_get_in_side_by_side(start, sample) -> None:
    async with start(api_keys=f"shop:{digest('one').upper()}, {digest('two')}") as running:
        for key, status in (("one", 200), ("two", 200), ("three", 401), ("shop", 401)):
            response = await running.client.post("/screen", json=sample.json(), headers=bearer(key))
            assert response.status_code == status


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer wrong", "Basic right", "right", "Bearer right right"])
async def test_only_a_bearer_key_gets_in(start, sample, authorization) -> None:
    async with start(api_keys=digest("right")) as running:
        headers = {"Authorization": authorization}
        refused = await running.client.post("/screen", json=sample.json(), headers=headers)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == 'Bearer realm="screening"'
        assert "scope 'screen'" in refused.json()["detail"]
        lower = {"Authorization": "bearer right"}
        assert (await running.client.post("/screen", json=sample.json(), headers=lower)).status_code == 200


async def test_keys_of_one_name_do_not_share_idempotency_keys(start, sample, make_sample) -> None:
    async with start(api_keys=f"shop:{digest('one')},shop:{digest('two')}") as running:
        one, two = (bearer(key) | {"Idempotency-Key": "k"} for key in ("one", "two"))
        assert (await running.client.post("/screen", json=sample.json(), headers=one)).status_code == 200
        assert (await running.client.post("/screen", json=make_sample(2).json(), headers=two)).status_code == 200


@pytest.fixture
def kept(tmp_path) -> dict[str, str]:
    """Settings of a service with a key for each scope, which is its name."""
    file = tmp_path / "keys"
    file.write_text("".join(line(scope, scope, scope) for scope in ("screen", "feedback", "review", "admin")))
    database, pictures = f"sqlite:///{tmp_path}/decisions.db", str(tmp_path / "pictures")
    return {"keys_file": str(file), "decisions": database, "pictures": pictures}


@pytest.mark.parametrize(
    ("method", "path", "scope", "allowed"),
    [
        ("POST", "/screen", "screen", {"screen"}),
        ("GET", "/decisions", "feedback", {"feedback", "admin"}),
        ("GET", "/decisions/scr_1", "feedback", {"feedback", "admin"}),
        ("POST", "/decisions/scr_1/feedback", "feedback", {"feedback", "admin"}),
        ("DELETE", "/decisions/scr_1", "admin", {"admin"}),
        ("GET", "/admin/checkpoint", "admin", {"admin"}),
    ],
)
async def test_each_path_needs_its_scope(start, kept, method, path, scope, allowed) -> None:
    async with start(**kept) as running:
        unknown = await running.client.request(method, path, headers=bearer("unknown"))
        none = await running.client.request(method, path)
        assert (unknown.status_code, none.status_code) == (401, 401)
        for key in ("screen", "feedback", "review", "admin"):
            answer = await running.client.request(method, path, headers=bearer(key))
            code = "" if answer.status_code < 400 else answer.json()["type"].rpartition(":")[2]
            assert (code != "insufficient-scope") == (key in allowed), (key, code)
            if key not in allowed:
                assert answer.status_code == 403
                assert answer.json()["detail"].startswith(f"The key {key!r} lacks the scope {scope!r}")
        if path == "/screen":
            assert running.metric("screening_rejected_total", reason="insufficient_scope") == 3
            assert running.metric("screening_rejected_total", reason="unauthenticated") == 2


async def test_a_keys_file_without_a_key_for_screen_does_not_open_it(start, sample, tmp_path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("lead", "admin"))
    async with start(keys_file=file) as running:
        answer = await running.client.post("/screen", json=sample.json(), headers=bearer("lead"))
    assert answer.status_code == 403 and "No key has the scope 'screen'" in answer.json()["detail"]


async def test_the_log_names_the_key_and_never_shows_it(start, kept, sample, caplog) -> None:
    caplog.set_level("INFO")
    async with start(**kept) as running:
        await running.client.post("/screen", json=sample.json(), headers=bearer("screen"))
        await running.client.post("/screen", json=sample.json(), headers=bearer("admin"))
        await running.client.post("/screen", json=sample.json(), headers=bearer("hidden-key"))
    callers = [one.fields["caller"] for one in caplog.records if one.message == "request" and one.fields["status"]]
    assert [name for name in callers if name] == ["screen", "admin"]
    assert "hidden-key" not in caplog.text and digest("hidden-key") not in caplog.text
