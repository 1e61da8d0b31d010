"""Keys have names, for those who read logs; the keys themselves appear nowhere."""

from __future__ import annotations

import hashlib

import pytest
from starlette.requests import Request

from service.config.named_keys import NamedKey, named_keys
from service.errors import Unauthenticated
from service.http.auth import caller_of, check_key

pytestmark = pytest.mark.anyio


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def request_with(authorization: str) -> Request:
    headers = [(b"authorization", authorization.encode("latin-1"))] if authorization else []
    return Request({"type": "http", "headers": headers, "state": {}})


def test_the_caller_is_the_name_of_its_key() -> None:
    keys = named_keys(f"shop:{digest('old')},shop:{digest('new')},{digest('plain')}")
    for key, name in (("old", "shop"), ("new", "shop"), ("plain", digest("plain")[:8])):
        request = request_with(f"bearer {key}")
        assert caller_of(request) is None
        assert check_key(request, keys, "a key") == digest(key)
        assert caller_of(request) == name


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", "Basic right", "right"])
def test_without_a_known_key_there_is_no_caller(authorization) -> None:
    request = request_with(authorization)
    with pytest.raises(Unauthenticated):
        check_key(request, [NamedKey("shop", digest("right"))], "a key")
    assert caller_of(request) is None


async def test_named_and_plain_keys_get_in_side_by_side(start, sample) -> None:
    async with start(api_keys=f"shop:{digest('one').upper()}, {digest('two')}") as running:
        for key, status in (("one", 200), ("two", 200), ("three", 401), ("shop", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await running.client.post("/screen", json=sample.json(), headers=headers)).status_code == status


async def test_keys_of_one_name_do_not_share_idempotency_keys(start, sample, make_sample) -> None:
    async with start(api_keys=f"shop:{digest('one')},shop:{digest('two')}") as running:
        one, two = ({"Authorization": f"Bearer {key}", "Idempotency-Key": "k"} for key in ("one", "two"))
        assert (await running.client.post("/screen", json=sample.json(), headers=one)).status_code == 200
        assert (await running.client.post("/screen", json=make_sample(2).json(), headers=two)).status_code == 200
