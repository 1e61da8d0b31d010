"""A full service evicts a slow upload, and only then."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import pytest

from service.admission.admission import Admission
from service.admission.upload import Upload
from service.config.upload_pace import Pace
from service.errors import BodyTimeout, Overloaded, UploadTooSlow
from service.metrics import Metrics

pytestmark = pytest.mark.anyio

PACE = Pace(seconds=0.2, bytes_per_second=1000)


class Sleepless(selectors.DefaultSelector):
    """Advances a clock where an event loop would sleep until its next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            self.now += max(timeout, 0)
            timeout = 0
        return super().select(timeout)


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, so that no machine is too slow for a period of 0.2 s."""

    def __init__(self) -> None:
        self._clock = Sleepless()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The tests of this file have no threads, which would need real time."""
    return "asyncio", {"loop_factory": VirtualTime}


@pytest.fixture
def admission() -> Admission:
    """Two places."""
    admission = Admission(max_concurrent=1, max_queue=1, metrics=Metrics())
    admission.open()
    return admission


async def read(upload: Upload, pieces: list[int], pause: float) -> None:
    async with upload:
        for size in pieces:
            await asyncio.sleep(pause)
            upload.arrived(size)


async def test_an_upload_at_its_pace_may_take_as_long_as_it_needs() -> None:
    await read(Upload(PACE), [100] * 30, 0.02)  # three periods


async def test_a_steady_upload_below_its_pace_is_too_slow() -> None:
    with pytest.raises(UploadTooSlow, match="at least 200 are required"):
        await read(Upload(PACE), [1] * 100, 0.02)


@pytest.mark.parametrize("pieces", [[], [1], [150, 10], [5000]])
async def test_an_upload_that_stops_is_a_body_timeout(pieces) -> None:
    upload = Upload(PACE)
    with pytest.raises(BodyTimeout, match=f"after {sum(pieces)} bytes"):
        async with upload:
            for size in pieces:
                upload.arrived(size)
            await asyncio.sleep(60)


async def test_without_a_minimum_rate_every_byte_is_progress() -> None:
    await read(Upload(Pace(seconds=0.2, bytes_per_second=0)), [1] * 30, 0.02)


async def test_a_full_service_evicts_the_oldest_upload_after_one_period(admission) -> None:
    ended: list[str] = []

    async def upload_slowly(name: str) -> None:
        try:
            with admission.admit() as place:
                place.upload = Upload(PACE)
                await read(place.upload, [100] * 3000, 0.02)
        except Overloaded as error:
            assert error.retry_after is not None
            ended.append(name)

    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(upload_slowly("first"))]
        await asyncio.sleep(0)
        slow.append(group.create_task(upload_slowly("second")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded), admission.admit():
            pass  # both are within their fair time
        await asyncio.sleep(2 * PACE.seconds)
        with admission.admit():
            assert admission.inside == 2  # never more than there are places
            await slow[0]
            assert ended == ["first"] and admission.inside == 2
        assert admission.inside == 1
        slow[1].cancel()
    assert admission.inside == 0


async def test_a_piece_that_arrives_with_the_eviction_does_not_cancel_it() -> None:
    upload = Upload(PACE)
    with pytest.raises(Overloaded, match="in 7 s"):
        async with upload:
            upload.evict(7)
            upload.arrived(5000)
            await asyncio.sleep(0)
            raise AssertionError("the upload continued")


@pytest.mark.parametrize("last", [1, 5000])
async def test_an_upload_that_ends_with_its_eviction_is_refused(last) -> None:
    upload = Upload(PACE)
    with pytest.raises(Overloaded, match="in 7 s"):
        async with upload:
            upload.evict(7)
            upload.arrived(last)


async def test_an_evicted_upload_reports_its_own_error_first() -> None:
    upload = Upload(PACE)
    with pytest.raises(ValueError, match="too large"):
        async with upload:
            upload.evict(7)
            raise ValueError("too large")


async def test_a_request_whose_body_has_arrived_keeps_its_place(admission) -> None:
    with admission.admit() as one, admission.admit() as other:
        for place in (one, other):
            place.upload = Upload(Pace(seconds=0.01, bytes_per_second=0))
            async with place.upload:
                pass
        await asyncio.sleep(0.05)
        one.upload = other.upload = None
        with pytest.raises(Overloaded), admission.admit():
            pass
