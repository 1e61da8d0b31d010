"""Many requests: bounded, in order, lazy, and with errors where the caller wants them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from screening_client import AsyncClient, Client, Completed, InputError, InvalidRequest, Screening, ScreenRequest
from screening_client.bulk_threads import as_completed
from screening_client.pace import Run
from screening_client.pictures import picture_bytes

TWINS = pytest.mark.parametrize("twin", ["sync", "async"])


def run(twin: str, url: str, requests: Any, **options: Any) -> Any:
    """`screen_many` of either client."""
    if twin == "sync":
        with Client(base_url=url, max_retries=0) as client:
            return client.screen_many(requests, **options)

    async def call() -> Any:
        async with AsyncClient(base_url=url, max_retries=0) as client:
            return await client.screen_many(requests, **options)

    return asyncio.run(call())


def several(question: Any, count: int) -> list[ScreenRequest]:
    return [ScreenRequest(**question, request_id=f"r{number}") for number in range(count)]


@TWINS
def test_results_come_in_the_order_of_the_requests(server: Any, question: Any, twin: str) -> None:
    gate = iter(range(100))
    server.before_reply = lambda: threading.Event().wait(0.02 if next(gate) % 3 == 0 else 0)
    results = run(twin, server.url, several(question, 12), concurrency=4)
    assert [result.request_id for result in results] == [f"r{number}" for number in range(12)]


@TWINS
@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_are_under_way_as_allowed_and_no_more(server: Any, question: Any, twin: str, concurrency: int) -> None:
    # No reply is sent before so many requests have arrived. With fewer in flight the barrier breaks and the test fails.
    everyone_is_here = threading.Barrier(concurrency, timeout=60)
    server.before_reply = everyone_is_here.wait
    run(twin, server.url, several(question, 9), concurrency=concurrency)
    assert server.most_at_once == concurrency and len(server.received) == 9


@TWINS
def test_requests_are_taken_only_as_places_become_free(server: Any, question: Any, twin: str) -> None:
    taken_ahead: list[int] = []

    def lazy() -> Iterator[ScreenRequest]:
        for number in range(20):
            taken_ahead.append(number - len(server.received))
            yield ScreenRequest(**question)

    run(twin, server.url, lazy(), concurrency=3)
    assert len(taken_ahead) == 20 and max(taken_ahead) <= 3


@TWINS
def test_the_first_error_ends_the_run(server: Any, question: Any, twin: str) -> None:
    server.replies = [server.good(), server.good(), server.problem(422)]
    with pytest.raises(InvalidRequest):
        run(twin, server.url, several(question, 50), concurrency=2)
    assert len(server.received) <= 6


@TWINS
def test_errors_can_take_the_place_of_their_results(server: Any, question: Any, twin: str) -> None:
    requests = several(question, 3)
    requests[1] = ScreenRequest(original=b"", generated=question["generated"])
    results = run(twin, server.url, requests, on_error="return", concurrency=2)
    assert [type(result).__name__ for result in results] == ["Screening", "InputError", "Screening"]


@TWINS
def test_a_fault_of_the_caller_s_iterable_is_raised_as_it_is(server: Any, question: Any, twin: str) -> None:
    def broken() -> Iterator[ScreenRequest]:
        yield ScreenRequest(**question)
        raise LookupError("the table is gone")

    with pytest.raises(LookupError, match="the table is gone"):
        run(twin, server.url, broken(), on_error="return")


@TWINS
def test_no_requests_give_no_results(server: Any, twin: str) -> None:
    assert run(twin, server.url, []) == []


@TWINS
@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": True}, {"on_error": "ignore"}])
def test_unusable_options_are_refused_before_anything_is_taken(server: Any, twin: str, options: Any) -> None:
    requests = iter([None])
    with pytest.raises(InputError):
        run(twin, server.url, requests, **options)
    assert next(requests) is None


@pytest.mark.slow
@TWINS
def test_requests_may_share_a_pil_image_that_is_not_decoded_yet(server: Any, question: Any, twin: str) -> None:
    """Pillow decodes it at its first use, in pieces, and other threads come in between."""
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = BytesIO()
    Image.effect_noise((640, 512), 100).convert("RGB").save(jpeg, format="JPEG", quality=95, exif=exif)
    assert len(jpeg.getvalue()) > 300 * 1024
    whole = picture_bytes(Image.open(BytesIO(jpeg.getvalue())), "original")
    requests = several(question | {"original": Image.open(BytesIO(jpeg.getvalue()))}, 8)
    run(twin, server.url, requests, concurrency=8)
    assert [whole in received.body for received in server.received] == [True] * 8


class RemoteFile(BytesIO):
    """A file object on which other threads get their turn between `seek` and `read`."""

    def seek(self, position: int, whence: int = 0, /) -> int:
        moved = super().seek(position, whence)
        threading.Event().wait(0.02)
        return moved


@TWINS
def test_requests_may_share_a_file_object(server: Any, question: Any, twin: str) -> None:
    with RemoteFile(question["original"]) as file:
        run(twin, server.url, several(question | {"original": file}, 8), concurrency=8)
    assert [question["original"] in received.body for received in server.received] == [True] * 8


def test_an_error_does_not_wait_for_others_retry_after(server: Any, question: Any) -> None:
    """Otherwise a failed run would wait as long as an overloaded service asks, or send another request."""
    first_refused = threading.Event()
    server.replies = [server.problem(503, retry_after=100), server.problem(422)]

    def requests() -> Iterator[ScreenRequest]:
        yield ScreenRequest(**question)
        while not server.received:
            first_refused.wait(0.01)
        yield ScreenRequest(**question)

    with Client(base_url=server.url) as client, pytest.raises(InvalidRequest):
        client.screen_many(requests(), concurrency=2)
    assert len(server.received) == 2


def test_no_progress_bar_is_shown_without_a_terminal(
    server: Any, question: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sync", server.url, several(question, 2), progress=True)
    assert capsys.readouterr() == ("", "")


def completed(twin: str, url: str, requests: Any, **options: Any) -> list[Any]:
    """Return the results of either client's `screen_as_completed`; the error that ended it comes last."""
    given: list[Any] = []

    def call() -> None:
        with Client(base_url=url, max_retries=0) as client:
            for each in client.screen_as_completed(requests, **options):
                given.append(each)  # noqa: PERF402 - what came before an error is kept

    async def call_twin() -> None:
        async with AsyncClient(base_url=url, max_retries=0) as client:
            async for each in client.screen_as_completed(requests, **options):
                given.append(each)  # noqa: PERF401

    try:
        call() if twin == "sync" else asyncio.run(call_twin())
    except (InvalidRequest, LookupError) as error:
        given.append(error)
    return given


@TWINS
def test_results_come_with_their_requests_as_they_are_completed(server: Any, question: Any, twin: str) -> None:
    requests = several(question, 12)
    given = completed(twin, server.url, requests, concurrency=4)
    assert sorted(each.index for each in given) == list(range(12))
    assert all(each.request is requests[each.index] for each in given)
    assert all(each.result.request_id == f"r{each.index}" for each in given)


@TWINS
def test_a_result_is_given_before_the_next_request_is_asked_for(server: Any, question: Any, twin: str) -> None:
    """With one place: nothing waits until the iterable has ended."""
    events: list[str] = []

    def requests() -> Iterator[ScreenRequest]:
        for number in range(3):
            events.append(f"taken {number}")
            yield ScreenRequest(**question)

    def told(done: int, _total: int | None) -> None:
        events.append(f"done {done}")

    completed(twin, server.url, requests(), concurrency=1, progress=told)
    assert events == ["taken 0", "done 1", "taken 1", "done 2", "taken 2", "done 3"]


@pytest.mark.slow
def test_a_slow_iterable_does_not_delay_finished_results() -> None:
    """The first call ends before the second item comes, and forty places are free."""
    first_ended = threading.Event()
    given: list[int] = []
    given_when_taken: list[int] = []

    def slow() -> Iterator[int]:
        yield 0
        first_ended.wait(60)
        for number in range(1, 40):
            threading.Event().wait(0.01)
            given_when_taken.append(len(given))
            yield number

    def call(item: int, _run: Run) -> int:
        first_ended.set()
        return item

    for done in as_completed(call, slow(), 40, on_error="raise"):
        given.append(done.result)  # noqa: PERF401 - the iterable looks at its length
    assert given_when_taken[-1] > 0 and sorted(given) == list(range(40))


@TWINS
def test_results_from_before_an_error_are_not_lost(server: Any, question: Any, twin: str) -> None:
    server.replies = [server.good(), server.good(), server.problem(422), server.good()]
    given = completed(twin, server.url, several(question, 50), concurrency=1)
    assert [type(each) for each in given] == [Completed, Completed, InvalidRequest]
    assert len(server.received) == 3


@TWINS
def test_an_error_of_the_iterable_follows_the_results_of_earlier_requests(
    server: Any, question: Any, twin: str
) -> None:
    def broken() -> Iterator[ScreenRequest]:
        yield from several(question, 3)
        raise LookupError("the table is gone")

    given = completed(twin, server.url, broken(), concurrency=8)
    assert [type(each) for each in given] == [Completed] * 3 + [LookupError]


@TWINS
def test_errors_are_results_where_the_caller_wants_them(server: Any, question: Any, twin: str) -> None:
    server.replies = [server.problem(422), server.good()]
    given = completed(twin, server.url, several(question, 2), concurrency=1, on_error="return")
    assert [type(each.result).__name__ for each in given] == ["InvalidRequest", "Screening"]


@TWINS
def test_unusable_options_are_refused_at_the_call_and_not_at_the_first_result(server: Any, twin: str) -> None:
    client: Any = Client(base_url=server.url) if twin == "sync" else AsyncClient(base_url=server.url)
    with pytest.raises(InputError):
        client.screen_as_completed([], concurrency=0)


@TWINS
def test_progress_can_be_a_function(server: Any, question: Any, twin: str) -> None:
    known: list[Any] = []
    unknown: list[Any] = []
    run(twin, server.url, several(question, 3), progress=lambda *facts: known.append(facts))
    run(twin, server.url, iter(several(question, 2)), progress=lambda *facts: unknown.append(facts))
    assert known == [(1, 3), (2, 3), (3, 3)] and unknown == [(1, None), (2, None)]


@TWINS
def test_a_million_requests_are_not_read_ahead_while_the_caller_looks_at_a_result(
    server: Any, question: Any, twin: str
) -> None:
    taken = 0

    def endless() -> Iterator[ScreenRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield ScreenRequest(**question)

    if twin == "sync":
        with Client(base_url=server.url) as client, closing(client.screen_as_completed(endless(), concurrency=3)) as it:
            for _ in range(5):
                next(it)
    else:

        async def call() -> None:
            async with (
                AsyncClient(base_url=server.url) as client,
                aclosing(client.screen_as_completed(endless(), concurrency=3)) as results,
            ):
                for _ in range(5):
                    await anext(results)
                    await asyncio.sleep(0.05)

        asyncio.run(call())
    assert taken <= 5 + 3


def test_leaving_the_loop_cancels_requests_that_the_service_does_not_answer(
    server: Any, question: Any, wait_until: Any
) -> None:
    """Their threads end, although they wait for a socket."""
    server.replies = [server.good(), type(server.good())(hang=True)]
    with Client(base_url=server.url) as client:
        for _ in client.screen_as_completed(several(question, 4), concurrency=2):
            while len(server.received) < 2:
                threading.Event().wait(0.01)
            break
        wait_until(lambda: "screening" not in [thread.name for thread in threading.enumerate()])
        server.replies = [server.good()]
        assert client.screen(**question).choice == "C", "the client is usable afterwards"


@pytest.mark.slow
def test_a_thread_that_cannot_be_cancelled_does_not_keep_the_caller(question: Any) -> None:
    """A transport of the caller's own, whose connections the run does not know."""
    released, begun = threading.Event(), threading.Event()

    def stuck(_request: httpx.Request) -> httpx.Response:
        begun.set()
        released.wait(60)
        return httpx.Response(500)

    def requests() -> Iterator[ScreenRequest]:
        yield ScreenRequest(**question)
        begun.wait(60)
        raise KeyboardInterrupt

    http = httpx.Client(transport=httpx.MockTransport(stuck))
    client = Client(base_url="http://stuck", http_client=http, max_retries=0)
    with pytest.raises(KeyboardInterrupt):
        client.screen_many(requests(), concurrency=2)
    (thread,) = (each for each in threading.enumerate() if each.name == "screening")
    assert thread.daemon
    released.set()
    thread.join(60)
    http.close()


def test_the_async_client_takes_an_async_iterable_and_gives_results_while_it_waits(server: Any, question: Any) -> None:
    first_came = asyncio.Event()

    async def slow() -> AsyncIterator[ScreenRequest]:
        yield ScreenRequest(**question, request_id="r0")
        await asyncio.wait_for(first_came.wait(), 60)  # for ever, if results came only with the next request
        yield ScreenRequest(**question, request_id="r1")

    async def call() -> list[str | None]:
        ids = []
        async with AsyncClient(base_url=server.url) as client:
            async for done in client.screen_as_completed(slow(), concurrency=4):
                ids.append(done.result.request_id)
                first_came.set()
            assert [each.choice for each in await client.screen_many(slow())] == ["C", "C"]
        return ids

    assert asyncio.run(call()) == ["r0", "r1"]


def test_an_error_of_an_async_iterable_follows_the_results_of_earlier_requests(server: Any, question: Any) -> None:
    async def broken() -> AsyncIterator[ScreenRequest]:
        yield ScreenRequest(**question)
        yield ScreenRequest(**question)
        raise LookupError("the table is gone")

    given = completed("async", server.url, broken())
    assert [type(each) for each in given] == [Completed, Completed, LookupError]


def test_closing_an_async_run_ends_its_requests_and_the_iterable(server: Any, question: Any) -> None:
    server.replies = [server.good(), type(server.good())(hang=True)]
    ended: list[str] = []

    async def endless() -> AsyncIterator[ScreenRequest]:
        try:
            while True:
                yield ScreenRequest(**question)
        finally:
            ended.append("iterable")

    async def call() -> None:
        async with AsyncClient(base_url=server.url) as client:
            async with aclosing(client.screen_as_completed(endless(), concurrency=2)) as results:
                await anext(results)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(call())
    assert ended == ["iterable"]


def test_cancelling_an_async_run_from_outside_cancels_its_requests(server: Any, question: Any) -> None:
    server.replies = [type(server.good())(hang=True)]

    async def call() -> None:
        async with AsyncClient(base_url=server.url) as client:
            task = asyncio.create_task(client.screen_many(several(question, 8), concurrency=2))
            while len(server.received) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(call())


@pytest.mark.parametrize("item", [{"original": b"o", "generated": [b"a"] * 4}, None, ("o", ["a"])])
def test_an_item_that_is_not_a_request_is_an_input_error(server: Any, question: Any, item: Any) -> None:
    with Client(base_url=server.url) as client:
        first, second = client.screen_many([item, ScreenRequest(**question)], progress=False, on_error="return")
    assert isinstance(first, InputError) and "must be a ScreenRequest" in str(first)
    assert isinstance(second, Screening)
