"""One client in several processes, threads and event loops: every caller gets the answer to its own question."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from screening_client import AsyncClient, Client, ClientStateError, InputError, MismatchedAnswer, ScreeningClientError

# Programs that fork run in their own interpreters, because pytest has threads.
PRELUDE = """
import asyncio, multiprocessing, os, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import httpx
from screening_client import AsyncClient, Client, ClientStateError

warnings.simplefilter("error")
URL, CALLS, CHILDREN = sys.argv[1], 12, 3
PICTURES = [Path(path).read_bytes() for path in sys.argv[2:]]
QUESTION = {"original": PICTURES[0], "generated": PICTURES[1:]}

def wrong_answers(client, who, calls=CALLS):
    wrong = 0
    for number in range(calls):
        mine = {"who": who, "number": number}
        answer = client.screen(**QUESTION, metadata=mine, request_id=f"{who}.{number}")
        wrong += answer.metadata != mine or answer.request_id != f"{who}.{number}"
    return wrong

async def wrong_answers_async(client, who, calls=CALLS):
    async def one(number):
        mine = {"who": who, "number": number}
        return (await client.screen(**QUESTION, metadata=mine)).metadata != mine
    return sum(await asyncio.gather(*map(one, range(calls))))

def fork(call):
    child = os.fork()
    if child == 0:
        try:
            code = call()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            code = 99
        os._exit(code)
    return child

def codes(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
"""

FORKED_AFTER_USE = """
with Client(base_url=URL, max_retries=0) as client:
    wrong_answers(client, "before", 2)
    children = [fork(lambda who=who: wrong_answers(client, f"child{who}")) for who in range(CHILDREN)]
    print(wrong_answers(client, "parent"), codes(children), wrong_answers(client, "after", 2))
"""

FORKED_FROM_A_CHILD = """
with Client(base_url=URL, max_retries=0) as client:
    wrong_answers(client, "before", 2)
    def child():
        before = wrong_answers(client, "child", 2)
        grandchildren = [fork(lambda who=who: wrong_answers(client, f"grandchild{who}")) for who in range(2)]
        return before + wrong_answers(client, "child") + sum(codes(grandchildren))
    children = [fork(child)]
    print(wrong_answers(client, "parent"), codes(children), wrong_answers(client, "after", 2))
"""

FORKED_BEFORE_USE = """
client = Client(base_url=URL, max_retries=0)
children = [fork(lambda who=who: wrong_answers(client, f"child{who}")) for who in range(CHILDREN)]
print(wrong_answers(client, "parent"), codes(children), wrong_answers(client, "after", 2))
client.close()
"""

FORKED_DURING_REQUESTS = """
client = Client(base_url=URL, max_retries=0)
started = threading.Barrier(5)
def use(who):
    wrong_answers(client, who, 1)
    started.wait()
    return wrong_answers(client, who)
with ThreadPoolExecutor(4) as pool:
    used = [pool.submit(use, f"thread{who}") for who in range(4)]
    started.wait()
    children = [fork(lambda who=who: wrong_answers(client, f"child{who}")) for who in range(CHILDREN)]
    print(sum(each.result() for each in used), codes(children), wrong_answers(client, "after", 2))
client.close()
"""

CHILDREN_CLOSE_THEIR_CLIENT = """
client = Client(base_url=URL, max_retries=0)
with client:
    wrong_answers(client, "before", 2)
    def child():
        with client:
            return wrong_answers(client, "child", 2)
    children = [fork(child) for _ in range(CHILDREN)]
    exits = codes(children)
    print(wrong_answers(client, "parent"), exits, wrong_answers(client, "after", 2))
"""

POOL_OF_PROCESSES = """
client = Client(base_url=URL, max_retries=0)
wrong_answers(client, "before", 2)
def work(who):
    return wrong_answers(client, who, 10)
with multiprocessing.get_context("fork").Pool(CHILDREN) as pool:
    asked = pool.map_async(work, [f"worker{who}" for who in range(CHILDREN)])
    print(wrong_answers(client, "parent"), asked.get(), wrong_answers(client, "after", 2))
client.close()
"""

ASYNCHRONOUS = """
client = AsyncClient(base_url=URL, max_retries=0)
async def parent():
    await wrong_answers_async(client, "before", 4)
    children = [fork(lambda who=who: asyncio.run(child(f"child{who}"))) for who in range(CHILDREN)]
    wrong = await wrong_answers_async(client, "parent")
    exits = await asyncio.to_thread(codes, children)
    after = await wrong_answers_async(client, "after", 4)
    await client.close()
    return wrong, exits, after
async def child(who):
    wrong = await wrong_answers_async(client, who)
    await client.close()
    return wrong
print(*asyncio.run(parent()))
"""

OWN_FUNCTION = """
client = Client(base_url=URL, max_retries=0, http_client=lambda: httpx.Client(headers={"X-Mine": "1"}))
with client:
    wrong_answers(client, "before", 2)
    children = [fork(lambda who=who: wrong_answers(client, f"child{who}")) for who in range(CHILDREN)]
    print(wrong_answers(client, "parent"), codes(children), wrong_answers(client, "after", 2))
"""

OWN_CLIENT_IS_REFUSED = """
with httpx.Client() as http:
    client = Client(base_url=URL, http_client=http)
    wrong_answers(client, "before", 2)
    def child():
        try:
            wrong_answers(client, "child")
        except ClientStateError as error:
            return 0 if "function" in str(error) else 1
    children = [fork(child) for who in range(CHILDREN)]
    print(wrong_answers(client, "parent"), codes(children), wrong_answers(client, "after", 2))
"""


def run_forking(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture(scope="module")
def pictures(five: tuple[bytes, ...], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("five")
    for number, data in enumerate(five):
        (folder / f"{number}.jpg").write_bytes(data)
    return sorted(map(str, folder.iterdir()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(FORKED_AFTER_USE, id="after-use"),
        pytest.param(FORKED_FROM_A_CHILD, id="from-a-child"),
        pytest.param(FORKED_BEFORE_USE, id="before-use"),
        pytest.param(FORKED_DURING_REQUESTS, id="during-requests"),
        pytest.param(CHILDREN_CLOSE_THEIR_CLIENT, id="children-close"),
        pytest.param(POOL_OF_PROCESSES, id="pool"),
        pytest.param(ASYNCHRONOUS, id="asyncio"),
        pytest.param(OWN_FUNCTION, id="own-function"),
        pytest.param(OWN_CLIENT_IS_REFUSED, id="own-client"),
    ],
)
def test_no_process_gets_the_answer_of_another(real_service: str, pictures: list[str], program: str) -> None:
    """No retries, so a connection that a child broke for its parent would fail here too."""
    assert run_forking(program, real_service, *pictures) in ("0 [0, 0, 0] 0", "0 [0] 0")


def screen(kind: type[Client | AsyncClient], question: Any, **options: Any) -> Any:
    """One call of either client, under the request id `mine.1`."""
    if issubclass(kind, Client):
        with kind(**options) as client:
            return client.screen(**question, request_id="mine.1")

    async def call() -> Any:
        async with AsyncClient(**options) as client:
            return await client.screen(**question, request_id="mine.1")

    return asyncio.run(call())


def named(reply: Any, request_id: str) -> Any:
    """The reply with the request id that it echoes."""
    return replace(reply, headers={**reply.headers, "X-Request-Id": request_id})


both = pytest.mark.parametrize("kind", [Client, AsyncClient])


@both
def test_the_answer_to_another_request_is_asked_for_again(server: Any, question: Any, kind: Any) -> None:
    server.replies = [named(server.good(choice="A"), "another.1"), named(server.good(choice="C"), "mine.1")]
    assert screen(kind, question, base_url=server.url).choice == "C"
    assert len({each.headers["Idempotency-Key"] for each in server.received}) == 1 and len(server.received) == 2


@both
@pytest.mark.parametrize(("max_retries", "sent"), [(0, 1), (2, 3)])
def test_a_second_answer_to_another_request_is_an_error(
    server: Any, question: Any, kind: Any, max_retries: int, sent: int
) -> None:
    server.replies = [named(server.good(), "another.1")]
    with pytest.raises(MismatchedAnswer, match=r"another\.1 instead of mine\.1") as caught:
        screen(kind, question, base_url=server.url, max_retries=max_retries)
    assert (len(server.received), caught.value.request_id) == (sent, "mine.1")


@both
@pytest.mark.parametrize("status", [401, 413, 422, 429, 503])
def test_another_request_s_error_is_not_reported_as_this_one_s(
    server: Any, question: Any, kind: Any, status: int, quick: None
) -> None:
    server.replies = [named(server.problem(status), "another.1")]
    with pytest.raises(MismatchedAnswer) as caught:
        screen(kind, question, base_url=server.url)
    assert len(server.received) == caught.value.attempts == 3


@both
def test_every_attempt_is_compared(server: Any, question: Any, kind: Any, quick: None) -> None:
    server.replies = [
        named(server.problem(503), "mine.1"),
        named(server.problem(422), "another.1"),
        named(server.good(choice="A"), "another.2"),
        named(server.good(choice="C"), "mine.1"),
    ]
    assert screen(kind, question, base_url=server.url, max_retries=3).choice == "C"
    assert len(server.received) == 4


@both
@pytest.mark.parametrize("request_id", ["mine.1", "mine.1, proxy-7", "proxy-7,mine.1"])
def test_a_proxy_may_add_its_own_id(server: Any, question: Any, kind: Any, request_id: str) -> None:
    server.replies = [named(server.good(), request_id)]
    assert screen(kind, question, base_url=server.url).answered


@both
def test_a_proxy_that_replaces_the_id_is_a_setting(server: Any, question: Any, kind: Any) -> None:
    server.replies = [named(server.good(), "proxy-7")]
    assert screen(kind, question, base_url=server.url, check_request_id=False).request_id == "proxy-7"


def test_a_readiness_answer_to_another_request_does_not_count(server: Any) -> None:
    server.replies = [named(server.good(), "another.1")]
    with Client(base_url=server.url) as client:
        assert not client.ready()


class KeepAlive(ThreadingHTTPServer):
    """Keeps connections open, counts them, and names another request in its first answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.connections: set[tuple[str, int]] = set()
        self.answers = 0
        super().__init__(("127.0.0.1", 0), _KeepAliveHandler)


class _KeepAliveHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KeepAlive

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.connections.add(self.client_address)
        self.server.answers += 1
        self.send_response(200)
        self.send_header("X-Request-Id", "another.1" if self.server.answers == 1 else self.headers["X-Request-Id"])
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@both
def test_the_connection_of_another_request_s_answer_is_dropped(server: Any, question: Any, kind: Any) -> None:
    with KeepAlive(server.good().body) as kept:
        thread = threading.Thread(target=kept.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert screen(kind, question, base_url=f"http://127.0.0.1:{kept.server_address[1]}").answered
            assert (kept.answers, len(kept.connections)) == (2, 2)
        finally:
            kept.shutdown()
            thread.join()


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
@pytest.mark.parametrize("ids", ["proxy-7, mine.1", "mine.1,proxy-7"])
def test_the_request_id_of_a_result_is_the_one_that_was_sent(server: Any, question: Any, kind: Any, ids: str) -> None:
    server.replies = [named(server.good(), ids)]
    assert screen(kind, question, base_url=server.url).request_id == "mine.1"


@both
@pytest.mark.parametrize("made", [None, "client", httpx.Client])
def test_a_function_that_makes_something_else_is_named(question: Any, kind: Any, made: Any) -> None:
    with pytest.raises(InputError, match="passed as http_client created a"):
        screen(kind, question, base_url="http://127.0.0.1:1", http_client=lambda: made)
