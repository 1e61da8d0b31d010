"""Pictures, requests, apps in this process, and services in processes of their own."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image, ImageDraw

from service.app import create_app
from service.config.settings import Settings
from service.engines.protocol import Engine
from service.engines.scripted_engine import ScriptedEngine
from tests.ports import free_port
from tests.service.obedient_engine import ADMIN, ADMIN_KEYS, ObedientEngine, make_checkpoint
from tests.service.tracing_collector import Collector, collecting

BOUNDARY = "screening-test-boundary"


def draw(seed: int, size: tuple[int, int] = (96, 80), format: str = "JPEG") -> bytes:
    """A small picture with something on it, different for each seed."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        pen.ellipse((x, y, x + size[0] // 3, y + size[1] // 3), fill=tuple(rng.randrange(256) for _ in range(3)))
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


@dataclass(frozen=True)
class Sample:
    """One request in both encodings."""

    pictures: tuple[bytes, ...]

    def files(self) -> list[tuple[str, tuple[str, bytes, str]]]:
        names = ("original", *["generated"] * 4)
        return [
            (name, (f"{index}.jpg", data, "image/jpeg"))
            for index, (name, data) in enumerate(zip(names, self.pictures, strict=True))
        ]

    def json(self, **fields: Any) -> dict[str, Any]:
        texts = [base64.b64encode(data).decode() for data in self.pictures]
        return {"original": texts[0], "generated": texts[1:], **fields}

    def multipart(self, **texts: str) -> bytes:
        """The raw body, for tests that send it in pieces or broken."""
        body = b""
        for name, (filename, data, kind) in self.files():
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            body += f"{head}Content-Type: {kind}\r\n\r\n".encode() + data + b"\r\n"
        for name, text in texts.items():
            body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        return body + f"--{BOUNDARY}--\r\n".encode()

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={BOUNDARY}"

    def raw_request(self, *, request_id: str = "raw") -> bytes:
        """The whole HTTP/1.1 request."""
        body = self.multipart()
        head = (
            f"POST /screen HTTP/1.1\r\nHost: test\r\nX-Request-Id: {request_id}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@pytest.fixture(scope="session")
def make_sample() -> Callable[[int], Sample]:
    """A sample of five pictures that follow from a seed."""
    return lambda seed: Sample(tuple(draw(1000 * seed + index) for index in range(5)))


@pytest.fixture(scope="session")
def wordy_sample(repository: Path) -> Callable[[int], Sample]:
    """A sample of the example products, of which the shipped checkpoint writes a long answer; 24 for each product."""
    products = sorted((repository / "clients" / "python" / "examples" / "products").iterdir())
    orders = list(permutations("abcd"))

    def make(seed: int) -> Sample:
        product, order = products[seed % len(products)], orders[seed // len(products)]
        return Sample(tuple((product / f"{name}.jpg").read_bytes() for name in ("original", *order)))

    return make


@pytest.fixture(scope="session")
def sample(make_sample: Callable[[int], Sample]) -> Sample:
    return make_sample(1)


@dataclass
class Running:
    """An app in this process, started, with a client."""

    app: FastAPI
    client: httpx.AsyncClient
    engine: Engine

    def metric(self, name: str, **labels: str) -> float:
        value = self.app.state.service.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start() -> Start:
    """Start an app on a scripted engine: `async with start(engine, max_queue=3) as running`."""

    @asynccontextmanager
    async def started(engine: Engine | None = None, /, *, wait: bool = True, **settings: Any) -> AsyncIterator[Running]:
        engine = engine or ScriptedEngine(latency_ms=0)
        failed: list[bool] = []
        settings = {"engine": "scripted", **settings}
        app = create_app(Settings(**settings), engine, on_failed_start=lambda: failed.append(True))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
                running = Running(app, client, engine)
                while wait and (await client.get("/readyz")).status_code != 200:
                    assert not failed, "the service did not start; its log says why"
                    await asyncio.sleep(0.001)
                yield running

    return started


@dataclass
class Operated:
    """A started app that swaps checkpoints, on an obedient engine, with requests that tests need."""

    app: FastAPI
    client: httpx.AsyncClient
    engine: ObedientEngine
    metric: Callable[..., float]

    async def take_up(self, name: str) -> httpx.Response:
        return await self.client.post("/admin/checkpoint", json={"checkpoint": name}, headers=ADMIN)

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.client.get("/admin/checkpoint", headers=ADMIN)).json()
        return state

    async def version(self) -> str:
        return (await self.state())["serving"]["version"]

    async def status(self, path: str) -> int:
        return (await self.client.get(path)).status_code


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two good checkpoints: `one`, which is served first, and `two`."""
    make_checkpoint(tmp_path / "store" / "one", 1)
    make_checkpoint(tmp_path / "store" / "two", 2)
    return tmp_path / "store"


@pytest.fixture
def serve(start: Start, store: Path, tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Operated]]:
    """Start an app on an obedient engine and the store's `one`: `async with serve(engine, max_queue=3) as running`."""

    @asynccontextmanager
    async def serving(engine: ObedientEngine | None = None, **settings: Any) -> AsyncIterator[Operated]:
        engine = engine or ObedientEngine()
        fixed = {"engine": "vllm", "checkpoint": store / "one", "checkpoint_store": store, "admin_keys": ADMIN_KEYS}
        async with start(engine, state_dir=tmp_path / "state", **fixed, **settings) as running:
            yield Operated(running.app, running.client, engine, running.metric)

    return serving


@dataclass
class Process:
    """`python -m service` as a subprocess."""

    base_url: str
    popen: subprocess.Popen[bytes]
    log: Path
    address: tuple[str, int] = field(default=("127.0.0.1", 0))

    def wait_ready(self, seconds: float = 400) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.popen.poll() is None, f"the service ended while it started:\n{self.log.read_text()[-4000:]}"
            try:
                if httpx.get(f"{self.base_url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the service is not ready after {seconds} s:\n{self.log.read_text()[-4000:]}")

    def metric(self, name: str) -> float:
        """Sum over the samples whose line begins with `name`."""
        lines = httpx.get(f"{self.base_url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def terminate(self, seconds: float = 60) -> int:
        """Send SIGTERM; returns the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)

    def stacks(self) -> str:
        """The stacks of its threads; empty after its end."""
        if self.popen.poll() is not None:
            return ""
        before = self.log.stat().st_size
        self.popen.send_signal(signal.SIGUSR1)
        until = time.monotonic() + 5
        while self.log.stat().st_size == before and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)  # for the rest of it
        return self.log.read_bytes()[before:].decode(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


_RUNNING: list[Process] = []
"""Services that run now."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what its services were doing: a hanging service logs nothing on its own."""
    report = yield
    if call.when == "call" and report.failed:
        report.sections += [(f"threads of the service at {one.base_url}", one.stacks()) for one in _RUNNING]
    return report


@contextmanager
def launch(
    folder: Path,
    *arguments: str,
    ready: bool = True,
    variables: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Process]:
    # Settings of the shell that runs the tests must not reach the service.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SCREENING_")}
    environment |= variables or {}
    root = Path(__file__).resolve().parents[2]
    port = free_port()
    log = folder / f"service-{port}.log"
    command = [*prefix, sys.executable, "-m", "service", "--port", str(port), *arguments]
    with log.open("wb") as output:
        popen = subprocess.Popen(command, stdout=output, stderr=output, cwd=root, env=environment)
    process = Process(f"http://127.0.0.1:{port}", popen, log, ("127.0.0.1", port))
    _RUNNING.append(process)
    try:
        if ready:
            process.wait_ready()
        yield process
    finally:
        _RUNNING.remove(process)
        if popen.poll() is None:
            popen.terminate()
            try:
                popen.wait(60)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait(10)


@pytest.fixture(scope="session")
def launch_service(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Any]:
    """Start `python -m service` with these arguments: `with launch_service("--engine", "scripted") as process`."""
    folder = tmp_path_factory.mktemp("services")
    return lambda *arguments, **options: launch(folder, *arguments, **options)


@pytest.fixture
def run_as_stranger() -> Sequence[str]:
    """Words before a command that run it as a user id without a passwd entry, which may read everything."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    capability = "-all,+dac_read_search"
    user = ("--reuid", "54321", "--regid", "54321", "--clear-groups")
    nameless = ("env", "-u", "USER", "-u", "LOGNAME", "-u", "USERNAME")
    return ("setpriv", *user, f"--inh-caps={capability}", f"--ambient-caps={capability}", *nameless)


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Path:
    """The shipped checkpoint, or the one that SCREENING_TEST_CHECKPOINT names."""
    return Path(os.environ.get("SCREENING_TEST_CHECKPOINT", tiny_checkpoint))


@pytest.fixture(scope="session")
def vllm_collector() -> Iterator[Collector]:
    """Takes the traces of `vllm_service`."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def published(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, written by the trainer, with `one`, the shipped checkpoint, and `two`, other weights of its
    architecture."""
    from tests.service.swapping import publish_another  # imports torch, which most tests here do without

    return publish_another(checkpoint, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def start_vllm_service(
    published: Path, launch_service: Callable[..., Any], vllm_collector: Collector
) -> Iterator[Callable[[], Process]]:
    """Returns the service of `vllm_service`; starts it first, and once more after a test has ended it."""
    running: list[Process] = []
    with ExitStack() as stack:

        def start() -> Process:
            if not running or running[-1].popen.poll() is not None:
                service = launch_service(
                    "--checkpoint", str(published / "one"),
                    "--checkpoint-store", str(published),
                    "--admin-keys", ADMIN_KEYS,
                    "--max-concurrent", "4",
                    "--max-queue", "28",
                    "--body-timeout-seconds", "60",
                    "--deadline-seconds", "300",  # on a busy machine an engine takes minutes to restart
                    "--answer-cache-entries", "0",  # a repeated question must be answered by the weights
                    variables=vllm_collector.variables(),
                )  # fmt: skip
                running.append(stack.enter_context(service))
            return running[-1]

        yield start


@pytest.fixture
def vllm_service(start_vllm_service: Callable[[], Process]) -> Process:
    """One traced service on the real engine, with room for 32 requests, that swaps the checkpoints of `published`.

    Most tests of the real engine share it, because an engine takes long to start. It serves `one` when a test begins.
    """
    from tests.service.swapping import take_up

    service = start_vllm_service()
    response = take_up(service, "one")
    assert response.status_code == 200, response.text
    return service


@pytest.fixture(scope="session")
def scripted_service(launch_service: Callable[..., Any]) -> Iterator[Process]:
    """One scripted service on a real socket, with short limits for slow bodies."""
    with launch_service(
        "--engine", "scripted", "--scripted-latency-ms", "0", "--body-timeout-seconds", "1"
    ) as process:  # fmt: skip
        yield process
