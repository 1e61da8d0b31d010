"""When requests may start."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from trainer.endpoint.pace import Pace


def test_requests_start_at_the_rate_that_is_set_whoever_asks(clock):
    pace = Pace(30, clock)
    starts: list[float] = []

    async def ask() -> None:
        await pace.turn()
        starts.append(clock.now())

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(100)))

    asyncio.run(all_of_them())
    assert len(starts) == 100
    for start in starts:
        assert sum(start <= other < start + 60 for other in starts) <= 30
    assert starts[-1] - starts[0] == pytest.approx(99 * 2)


def test_nothing_starts_while_the_endpoint_asks_to_wait(clock):
    pace = Pace(60, clock)
    starts: list[float] = []

    async def ask(number: int) -> None:
        await pace.turn()
        starts.append(clock.now())
        if number == 2:
            pace.hold(50)

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(10)))

    asyncio.run(all_of_them())
    begin = starts[0]
    assert [start - begin for start in starts[:3]] == [0, 1, 2]
    assert all(start - begin >= 52 for start in starts[3:])
    assert all(later - earlier >= 1 for earlier, later in pairwise(starts[3:]))
