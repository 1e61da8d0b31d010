"""One client in several processes, threads and event loops: every caller gets the answer to its own question."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

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

FORKED_WHILE_A_FILE_IS_READ = """
import signal
from io import BytesIO

reading, children_ended = threading.Event(), threading.Event()
class Slow(BytesIO):
    def read(self, size=-1):
        reading.set()
        children_ended.wait()
        return super().read(size)
def wrong(original):
    mine = {"who": os.getpid()}
    return int(client.screen(original=original, generated=PICTURES[1:], metadata=mine).metadata != mine)
def child():
    signal.alarm(60)  # a child that waits for a lock of the parent's thread would wait for ever
    return wrong(BytesIO(PICTURES[0]))
with Client(base_url=URL, max_retries=0) as client, ThreadPoolExecutor(1) as pool:
    asked = pool.submit(wrong, Slow(PICTURES[0]))
    reading.wait()
    exits = codes([fork(child) for _ in range(CHILDREN)])
    children_ended.set()
    print(asked.result(), exits, wrong_answers(client, "after", 2))
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
        pytest.param(FORKED_WHILE_A_FILE_IS_READ, id="while-a-file-is-read"),
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
