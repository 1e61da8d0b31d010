"""A server that stalls shows up in every request that would have met it."""

from __future__ import annotations

import asyncio
import signal

import pytest

from loadtest.load.arrivals import arrivals
from loadtest.load.loops import Stop, closed_loop, open_loop, stoppable

pytestmark = pytest.mark.anyio


class Stalling:
    """Answers at once, but not while it stalls: for 0.6 s from its tenth request on."""

    def __init__(self) -> None:
        self.began = self.now
        self.requests, self.stalls_until = 0, 0.0
        self.latencies: list[float] = []

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def ask(self, intended: float | None) -> None:
        sent = self.now
        self.requests += 1
        if self.requests == 10:
            self.stalls_until = sent + 0.6
        if sent < self.stalls_until:
            await asyncio.sleep(self.stalls_until - sent)
        self.latencies.append(self.now - (sent if intended is None else intended))

    @property
    def slow(self) -> int:
        return sum(latency > 0.1 for latency in self.latencies)


@pytest.mark.slow
async def test_an_open_loop_counts_a_stall_for_everybody_who_would_have_met_it() -> None:
    server = Stalling()
    moments = list(arrivals("constant", 50, 1.2, 0))
    await open_loop(moments, server.ask, now=lambda: server.now, began=server.began, stop=Stop())
    assert len(server.latencies) == len(moments) == 60
    # Those due in the first 0.5 s of the stall waited until its end, however late this machine sent them.
    assert server.slow >= 24


@pytest.mark.slow
async def test_a_closed_loop_hides_it_which_is_why_the_other_exists() -> None:
    server, stop = Stalling(), Stop()

    async def ask(_: float | None) -> None:
        await server.ask(None)
        if server.requests == 20:
            stop.set()
        await asyncio.sleep(0.02)

    await closed_loop(1, ask, until=stop.wait(), stop=stop)
    assert sum(latency > 0.4 for latency in server.latencies) == 1


async def test_latency_counts_from_the_intended_moment_when_the_sender_is_late() -> None:
    seen: list[float] = []
    loop = asyncio.get_running_loop()

    async def ask(intended: float | None) -> None:
        assert intended is not None
        seen.append(loop.time() - intended)

    began = loop.time() - 5  # the sender wakes up five seconds late
    await open_loop([0.0, 1.0], ask, now=loop.time, began=began, stop=Stop())
    assert seen[0] >= 5 and seen[1] >= 4


async def test_a_stop_ends_an_open_loop_and_gives_up_what_is_under_way() -> None:
    stop = Stop()

    async def ask(_: float | None) -> None:
        stop.set()
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    assert await open_loop([0.0, 1000.0], ask, now=loop.time, began=loop.time(), stop=stop) == 1


async def test_a_stop_ends_a_closed_loop() -> None:
    stop, asked = Stop(), 0

    async def ask(_: float | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            stop.set()
        await asyncio.Event().wait()

    assert await closed_loop(3, ask, until=stop.sleep(1000), stop=stop) == 3


async def broken(_: float | None) -> None:
    raise RuntimeError("a fault of ours")


async def test_a_fault_of_the_sender_ends_the_run() -> None:
    loop, stop = asyncio.get_running_loop(), Stop()
    with pytest.raises(RuntimeError, match="of ours"):
        await open_loop([0.0, 0.01], broken, now=loop.time, began=loop.time(), stop=stop)
    with pytest.raises(RuntimeError, match="of ours"):
        await closed_loop(2, broken, until=stop.sleep(1000), stop=stop)


async def test_several_faults_at_once_leave_no_task_behind() -> None:
    """All moments are due at once, so that several requests fail before the loop looks at the first."""
    loop, stop = asyncio.get_running_loop(), Stop()
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="of ours"):
        await open_loop([0.0] * 5, broken, now=loop.time, began=loop.time() - 1, stop=stop)
    assert asyncio.all_tasks() == before


async def test_a_closed_loop_fails_with_what_it_waits_for() -> None:
    async def ask(_: float | None) -> None:
        await asyncio.sleep(0.001)

    async def fails() -> None:
        raise ValueError("nothing to kill")

    with pytest.raises(ValueError, match="nothing to kill"):
        await closed_loop(2, ask, until=fails(), stop=Stop())


async def test_a_closed_terminal_stops_a_run_and_does_not_interrupt_its_end() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        async with stoppable() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert await stop.sleep(10)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
