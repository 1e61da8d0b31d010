"""A real HTTP server with the API of OpenAI, and a clock whose waits take no time.

It recognises the questions by their pictures (`tests.trainer.coloured`), and answers correctly unless a test sets the
text.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from PIL import Image

from screening.task import OPTIONS
from tests.trainer.coloured import LABELS, shown, thought
from trainer.endpoint.pace import Clock

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 10


@dataclass(frozen=True)
class Asked:
    """One request, as the server saw it."""

    sample: int
    task: str
    """`describe original` …, or `reason`."""
    text: str
    """All text parts."""
    body: dict[str, Any]
    headers: dict[str, str]
    time: int = 0
    """How often the same had been asked before."""

    @property
    def hint(self) -> bool:
        return "could not be used" in self.text


@dataclass
class Say:
    """The reply of the server to one request."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    finish: str = "stop"
    raw: bytes | None = None
    """The raw body, sent instead of a chat completion."""
    usage: bool = True


Speak = Callable[[Asked], Say]


class ChatServer(ThreadingHTTPServer):
    """Listens on a free port of this machine; `asked` holds all requests in order of arrival."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.speak: Speak = honest
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def tasks(self) -> Counter[tuple[int, str]]:
        return Counter((asked.sample, asked.task) for asked in self.asked)

    def note(self, asked: Asked) -> Asked:
        with self._lock:
            asked = replace(asked, time=self.tasks[asked.sample, asked.task])
            self.asked.append(asked)
        return asked

    def count(self, step: int) -> None:
        with self._lock:
            self._at_once += step
            self.most_at_once = max(self.most_at_once, self._at_once)

    def handle_error(self, request: object, client_address: object) -> None:
        """Some tests disconnect their client on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        self.server.count(+1)
        asked = self.server.note(understood(body, {name.lower(): value for name, value in self.headers.items()}))
        say = self.server.speak(asked)
        self.server.closing.wait(say.delay)
        self.server.count(-1)
        if say.drop:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        data = say.raw if say.raw is not None else json.dumps(completion(say)).encode()
        self.send_response(say.status)
        for name, value in ({"Content-Type": "application/json"} | say.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def completion(say: Say) -> dict[str, Any]:
    if say.status != 200:
        return {"error": {"message": say.text, "type": "some_type", "code": None}}
    message = {"role": "assistant", "content": say.text}
    answer: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher-2026-01",
        "choices": [{"index": 0, "message": message, "finish_reason": say.finish}],
    }
    if say.usage:
        answer["usage"] = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": COMPLETION_TOKENS,
            "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        }
    return answer


def understood(body: dict[str, Any], headers: dict[str, str]) -> Asked:
    """Which sample and task a request is about, read off the colours of its pictures."""
    (message,) = body["messages"]
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    colours = []
    for part in message["content"]:
        if part["type"] == "image_url":
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            with Image.open(BytesIO(base64.b64decode(data))) as image:
                colours.append(image.convert("RGB").getpixel((2, 2)))
    samples, places = zip(*map(shown, colours), strict=True)
    assert len(set(samples)) == 1
    if len(places) == 1:
        task = "describe " + ("original", *OPTIONS)[places[0]]
    else:
        assert places == (0, 1, 2, 3, 4)
        task = "reason"
    return Asked(samples[0], task, "\n".join(texts), body, headers)


def honest(asked: Asked) -> Say:
    """The teacher that is always right."""
    if asked.task != "reason":
        return Say(f"Sample {asked.sample},\n{asked.task.removeprefix('describe ')}.")
    return Say(thought(LABELS[asked.sample]))


class FakeClock(Clock):
    """Sleeping takes no time and moves the clock."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        until = self.time + seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.time = max(self.time, until)
