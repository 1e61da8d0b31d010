"""The wait that a server asks for, in every form that servers use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from trainer.runs.http_retry import retry_after

LONG_AFTER = "Wed, 21 Oct 2065 07:28:00"


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after-ms": "4500", "Retry-After": "5"}, 4.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
    ],
)
def test_the_header_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers)) == seconds


@pytest.mark.usefixtures("in_tokyo")
def test_a_date_without_a_zone_is_in_utc() -> None:
    plain, zoned = (retry_after(httpx.Headers({"Retry-After": f"{LONG_AFTER}{zone}"})) for zone in ("", " GMT"))
    assert plain is not None and zoned is not None
    assert plain == pytest.approx(zoned, abs=3600)
