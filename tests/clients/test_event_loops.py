"""Closed clients, event loops, threads, and copies of a client."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from screening_client import AsyncClient, Client, ClientStateError, InputError, ScreeningClientError
from tests.clients.calls import both, screen


def test_a_closed_client_says_what_to_do(server: Any, question: Any) -> None:
    client = Client(base_url=server.url)
    client.screen(**question)
    client.close()
    client.close()
    for call in (lambda: client.screen(**question), client.ready, lambda: client.with_options().ready()):
        with pytest.raises(ClientStateError, match="create a new one"):
            call()
    with httpx.Client() as http:
        client = Client(base_url=server.url, http_client=http)
    with pytest.raises(ClientStateError, match="http_client passed to this client is closed"):
        client.screen(**question)


def test_a_closed_async_client_says_what_to_do(server: Any, question: Any) -> None:
    async def call() -> None:
        client = AsyncClient(base_url=server.url)
        await client.screen(**question)
        await client.close()
        await client.close()
        with pytest.raises(ClientStateError, match="create a new one"):
            await client.screen(**question)
        with pytest.raises(ClientStateError, match="create a new one"):
            await client.ready()

    asyncio.run(call())


@pytest.mark.slow
def test_a_client_that_is_closed_during_a_call_is_a_package_error(server: Any, question: Any) -> None:
    client = Client(base_url=server.url)
    server.before_reply = client.close
    server.replies = [server.problem(503, retry_after=0)]
    with pytest.raises(ScreeningClientError):
        client.screen(**question)


def test_an_asynchronous_client_works_in_one_event_loop_after_another(real_service: str, question: Any) -> None:
    client = AsyncClient(base_url=real_service)

    async def choices() -> set[str | None]:
        return {each.choice for each in await asyncio.gather(*(client.screen(**question) for _ in range(4)))}

    assert asyncio.run(choices()) == asyncio.run(choices())
    gc.collect()  # a socket that is still open would be a warning, and warnings are errors here
    asyncio.run(client.close())


def test_an_asynchronous_client_works_in_event_loops_of_several_threads(real_service: str, question: Any) -> None:
    client = AsyncClient(base_url=real_service)

    async def numbers(thread: int) -> list[Any]:
        mine = [client.screen(**question, metadata={"n": (thread, n)}) for n in range(5)]
        return [each.metadata["n"] for each in await asyncio.gather(*mine)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda thread: asyncio.run(numbers(thread)), range(4)))
    assert found == [[[thread, n] for n in range(5)] for thread in range(4)]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_own_asynchronous_client_in_a_second_event_loop_says_what_to_do(real_service: str, question: Any) -> None:
    async def refused(client: AsyncClient) -> None:
        with pytest.raises(ClientStateError, match="a function"):
            await client.screen(**question)

    def use_twice(loop: asyncio.Runner) -> None:
        client = AsyncClient(base_url=real_service, http_client=httpx.AsyncClient())
        loop.run(client.screen(**question))
        with ThreadPoolExecutor(1) as pool:  # the first event loop is open
            pool.submit(asyncio.run, refused(client)).result()
        loop.close()
        asyncio.run(refused(client))

    use_twice(asyncio.Runner())
    gc.collect()  # httpx leaves a socket of the closed event loop open


def test_an_async_client_outside_asyncio_raises_a_clear_error(server: Any, question: Any) -> None:
    call = AsyncClient(base_url=server.url).screen(**question)
    with pytest.raises(ClientStateError, match=r"asyncio\.run"):
        call.send(None)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_http_client_of_the_wrong_kind_is_refused(kind: Any) -> None:
    with pytest.raises(InputError, match="http_client is of type"):
        kind(http_client=httpx.HTTPTransport() if kind is Client else 4711)


@both
def test_a_copy_of_a_used_client_opens_its_own_connections(server: Any, question: Any, kind: Any) -> None:
    """`multiprocessing` with `spawn` or `forkserver` sends a client to a worker by pickle."""

    async def use() -> None:
        async with AsyncClient(base_url=server.url, api_key="key") as client:
            await client.screen(**question)
            async with pickle.loads(pickle.dumps(client)) as other:
                await other.screen(**question)

    if kind is AsyncClient:
        asyncio.run(use())
    else:
        with Client(base_url=server.url, api_key="key") as client:
            client.screen(**question)
            with pickle.loads(pickle.dumps(client)) as other, copy.deepcopy(client) as third:
                assert other.screen(**question) == third.screen(**question)
    assert {each.headers["Authorization"] for each in server.received} == {"Bearer key"}


@both
@pytest.mark.parametrize("made", [None, "client", httpx.Client])
def test_a_function_that_makes_something_else_is_named(question: Any, kind: Any, made: Any) -> None:
    with pytest.raises(InputError, match="passed as http_client created a"):
        screen(kind, question, base_url="http://127.0.0.1:1", http_client=lambda: made)
