"""The servers of the SDK's tests: one that gives scripted answers, and the real service with its scripted engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from screening_client import Client, TimedOut, constants
from tests.ports import free_port

GOOD: dict[str, Any] = {
    "id": "scr_1",
    "outcome": "answered",
    "choice": "C",
    "acceptable": ["A", "C"],
    "reasoning": "I observed <A> normal: fine, so I ultimately chose AC.",
    "options": [
        {"option": "A", "usable": True, "issues": [], "comment": "normal: fine"},
        {"option": "B", "usable": False, "issues": ["appearance_deformation"], "comment": "appearance: other cap"},
        {"option": "C", "usable": True, "issues": [], "comment": "normal: fine"},
        {"option": "D", "usable": False, "issues": ["physical_shadow"], "comment": "shadow: two suns"},
    ],
    "confidence": 0.93,
    "needs_review": False,
    "mode": "cot",
    "checkpoint": {"name": "tiny", "version": "1", "digest": "sha256:00"},
    "engine": "scripted",
    "source": "engine",
    "timings": {"queue_ms": 0.4, "decode_ms": 9, "engine_ms": 310.2, "total_ms": 321.0},
    "usage": {"prompt_tokens": 142, "completion_tokens": 71},
    "metadata": {},
    "unreadable_reason": None,
}


@dataclass(frozen=True)
class Reply:
    """One scripted answer. `drop` closes the connection without one; `hang` waits until the test is over."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    hang: bool = False


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class ToldServer:
    """Answers with `replies` in turn, and then always with the last one."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [self.good()]
        self.received: list[Received] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.before_reply: Callable[[], object] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @staticmethod
    def good(**changes: Any) -> Reply:
        return Reply(200, json.dumps(GOOD | changes).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def problem(status: int, slug: str = "some-problem", **more: Any) -> Reply:
        """A problem document; `retry_after` becomes the header."""
        headers = {"Content-Type": "application/problem+json"}
        if "retry_after" in more:
            headers["Retry-After"] = str(more.pop("retry_after"))
        body = {"type": f"urn:screening:problem:{slug}", "title": "A title", "status": status, "detail": "A detail."}
        return Reply(status, json.dumps(body | more).encode(), headers)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _next(self, received: Received) -> Reply:
        with self._lock:
            self.received.append(received)
            return self.replies[min(len(self.received), len(self.replies)) - 1]

    def _count(self, step: int) -> None:
        with self._lock:
            self._at_once += step
            self.most_at_once = max(self.most_at_once, self._at_once)

    def _handler(told: ToldServer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reply = told._next(Received(self.command, self.path, dict(self.headers), body))
                told._count(1)
                told.before_reply()
                told._count(-1)
                if reply.hang:
                    told.over.wait()
                self.close_connection = True
                if not (reply.drop or reply.hang):
                    self.send_response(reply.status)
                    for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.body)

            do_GET = do_POST  # noqa: N815 - http.server finds methods by name

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def server() -> Iterator[ToldServer]:
    told = ToldServer()
    try:
        yield told
    finally:
        told.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts that do not hold up the tests."""
    monkeypatch.setattr(constants, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(constants, "POLL_INTERVAL", 0.01)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCREENING_BASE_URL", "SCREENING_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def _jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def five() -> tuple[bytes, ...]:
    """Five different JPEGs: the original and A to D."""
    return tuple(_jpeg((40 * number, 90, 200 - 40 * number)) for number in range(5))


@pytest.fixture
def question(five: tuple[bytes, ...]) -> dict[str, Any]:
    """Arguments of `screen`."""
    return {"original": five[0], "generated": list(five[1:])}


@pytest.fixture
def pictures(tmp_path: Path, five: tuple[bytes, ...]) -> list[str]:
    """Five files: the original and A to D."""
    names = ["original.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for name, data in zip(names, five, strict=True):
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in names]


@pytest.fixture
def write_batch(tmp_path: Path, pictures: list[str]) -> Callable[..., Path]:
    """Writes `in.jsonl` with a line for each id beside the pictures."""

    def write(*ids: object) -> Path:
        rows = [{"id": each, "original": "original.jpg", "generated": [f"{x}.jpg" for x in "abcd"]} for each in ids]
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@contextmanager
def running_service(repository: Path, log: Path, *options: str) -> Iterator[str]:
    """Start `python -m service --engine scripted` and yield its URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCREENING_")}
    port = free_port()
    command = [sys.executable, "-m", "service", "--engine", "scripted", "--port", str(port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=repository, env=environment, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        with Client(base_url=url) as client:
            try:
                client.wait_until_ready(120)
            except TimedOut as error:
                raise RuntimeError(f"the service did not start:\n{log.read_text()[-4000:]}") from error
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def real_service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real service with the scripted engine."""
    with running_service(repository, tmp_path_factory.mktemp("service") / "service.log") as url:
        yield url


@pytest.fixture(scope="module")
def slow_service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with answers that take two seconds."""
    log = tmp_path_factory.mktemp("slow") / "service.log"
    with running_service(repository, log, "--scripted-latency-ms", "2000") as url:
        yield url


@pytest.fixture(scope="module")
def narrow_service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with one place at work and one in the queue."""
    options = ["--max-concurrent", "1", "--max-queue", "1", "--scripted-latency-ms", "100"]
    with running_service(repository, tmp_path_factory.mktemp("narrow") / "service.log", *options) as url:
        yield url
