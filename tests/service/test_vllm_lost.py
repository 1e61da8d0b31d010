"""A request in an engine that is gone ends, also when vLLM itself never says so. vLLM is a stand-in here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.errors import EngineLost
from service.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm  # for its class of errors


class Nothing:
    """Looks after no processes: those below this one are the tests' own."""

    def look(self, _pid: int) -> None: ...

    def clear(self) -> list[str]:
        return []


class SilentLLM:
    """Takes requests and never answers; notes those that were aborted."""

    errored = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.aborted: list[str] = []
        self.was_shut_down = False

    async def generate(self, _prompt: object, _sampling: object, request_id: str) -> AsyncIterator[None]:
        self.asked.append(request_id)
        try:
            await asyncio.Event().wait()
            yield
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise

    def shutdown(self) -> None:
        self.was_shut_down = True


async def ask(engine: VllmEngine, llm: SilentLLM, name: str) -> asyncio.Task[object]:
    """A request that has reached the engine."""
    task = asyncio.create_task(engine._run("", (), None, name))
    while name not in llm.asked:
        await asyncio.sleep(0)
    return task


def loaded(llm: SilentLLM) -> VllmEngine:
    engine = VllmEngine()
    engine._llm, engine._remains = llm, Nothing()
    engine._loading = asyncio.get_running_loop().create_future()
    return engine


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_requests_end_with_their_engine(end) -> None:
    async def run() -> None:
        llm = SilentLLM()
        engine = loaded(llm)
        tasks = [await ask(engine, llm, name) for name in ("one", "two")]
        await getattr(engine, end)()
        async with asyncio.timeout(5):
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in found] == [EngineLost, EngineLost]
        assert llm.was_shut_down == (end == "stop")

    asyncio.run(run())


def test_a_request_that_is_cancelled_is_aborted_and_says_so() -> None:
    async def run() -> None:
        llm = SilentLLM()
        engine = loaded(llm)
        task, other = await ask(engine, llm, "one"), await ask(engine, llm, "two")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llm.aborted == ["one"]
        assert not other.done()

    asyncio.run(run())


def test_a_deadline_stays_a_deadline() -> None:
    async def run() -> None:
        llm = SilentLLM()
        engine = loaded(llm)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine._run("", (), None, "one")
        assert llm.aborted == ["one"]

    asyncio.run(run())
