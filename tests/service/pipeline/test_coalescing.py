"""Equal requests share one computation, which is cancelled when no caller waits for it any more."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from service.pipeline.coalescing import RequestCoalescer

pytestmark = pytest.mark.anyio


class Job:
    """Work that ends when the test ends it."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.begun += 1
        number = self.begun
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # an engine takes a moment to release a request
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"result {number}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def ask(coalescer: RequestCoalescer[str], job: Job, key: bytes = b"k") -> asyncio.Task[tuple[str, bool]]:
    return asyncio.create_task(coalescer.do(key, job))


async def test_those_who_ask_meanwhile_get_the_same_result_and_know_it() -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    tasks = [ask(coalescer, job) for _ in range(5)]
    await until(lambda: job.begun == 1)
    job.end.set()
    assert await asyncio.gather(*tasks) == [("result 1", number > 0) for number in range(5)]
    assert (job.begun, len(coalescer)) == (1, 0)


async def test_other_work_and_later_work_are_not_shared() -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    job.end.set()
    assert await asyncio.gather(ask(coalescer, job, b"one"), ask(coalescer, job, b"two")) == [
        ("result 1", False),
        ("result 2", False),
    ]
    assert await coalescer.do(b"one", job) == ("result 3", False)


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_who_leaves_does_not_disturb_the_others(leaver: int) -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    tasks = [ask(coalescer, job) for _ in range(3)]
    await until(lambda: job.begun == 1)
    tasks[leaver].cancel()
    await asyncio.wait({tasks[leaver]})
    assert tasks[leaver].cancelled() and job.cancelled == 0
    job.end.set()
    stayed = [task for task in tasks if not task.cancelled()]
    assert [result for result, _ in await asyncio.gather(*stayed)] == ["result 1", "result 1"]


async def test_when_the_last_one_leaves_the_work_has_ended_before_it_is_gone() -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    tasks = [ask(coalescer, job) for _ in range(2)]
    await until(lambda: job.begun == 1)
    for task in tasks:
        task.cancel()
        await asyncio.wait({task})
    assert (job.cancelled, len(coalescer)) == (1, 0)


async def test_work_that_is_being_given_up_is_not_joined() -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    leaving = ask(coalescer, job)
    await until(lambda: job.begun == 1)
    leaving.cancel()
    await asyncio.sleep(0)
    late = ask(coalescer, job)
    await until(lambda: job.begun == 2)
    job.end.set()
    assert await late == ("result 2", False)
    await asyncio.wait({leaving})
    assert leaving.cancelled() and job.cancelled == 1


async def test_a_failure_reaches_all_callers_and_later_work_starts_again() -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    tasks = [ask(coalescer, job) for _ in range(3)]
    await until(lambda: job.begun == 1)
    job.error = ValueError("the honest reason")
    job.end.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [job.error] * 3
    job.error = None
    assert await coalescer.do(b"k", job) == ("result 2", False)


async def test_an_error_without_a_waiting_caller_is_not_logged() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    coalescer = RequestCoalescer[str](max_age=60)

    async def fails_when_cancelled() -> str:
        try:
            return await asyncio.Event().wait() and ""
        finally:
            raise ValueError("while it was given up")

    task = asyncio.create_task(coalescer.do(b"k", fails_when_cancelled))
    await until(lambda: len(coalescer) == 1)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    del task
    gc.collect()
    assert complaints == []


async def test_work_that_hangs_is_not_joined_for_ever() -> None:
    coalescer, hangs, works = RequestCoalescer[str](max_age=0.05), Job(), Job()
    stuck = ask(coalescer, hangs)
    await until(lambda: hangs.begun == 1)
    await asyncio.sleep(0.06)
    works.end.set()
    assert await coalescer.do(b"k", works) == ("result 1", False)
    assert not stuck.done()
    stuck.cancel()
    await asyncio.wait({stuck})
    assert (hangs.cancelled, len(coalescer)) == (1, 0)


async def test_a_hundred_cancelled_callers_leave_no_state() -> None:
    coalescer, job = RequestCoalescer[str](max_age=60), Job()
    tasks = [ask(coalescer, job, bytes([number % 7])) for number in range(100)]
    for step, task in enumerate(tasks):
        if step % 3 == 0:
            task.cancel()
        if step % 10 == 0:
            await asyncio.sleep(0)
    job.end.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 66
    assert len(coalescer) == 0
