"""A real HTTP server that plays the review interface of a service, as docs/http-api-operators.md describes it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

KEY = "lead-key"
AGREEMENT = [{"dimension": "usable", "pairs": 12, "raw": 0.9, "alpha": 0.7, "ac1": 0.8}]
BEGIN = datetime(2026, 11, 1, 12, tzinfo=UTC)


WRONG = {
    "A": {"appearance_deformation": 2},
    "B": {"extension_rationality": 1},
    "C": {"physical_shadow": 1, "placement_layout": 3},
    "D": {"placement_layout": 3},
}


def picture(number: int, place: int) -> bytes:
    """A picture of one colour, which no other question shows."""
    buffer = BytesIO()
    Image.new("RGB", (40, 32), (number % 256, place * 50, number // 256)).save(buffer, "PNG")
    return buffer.getvalue()


class Reviews(ThreadingHTTPServer):
    """Listens on a free port. Tests change `items`, `pictures` and `fault`, and look at `asked`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.items: list[dict[str, Any]] = []
        self.pictures: dict[str, bytes] = {}
        self.exports: list[dict[str, Any]] = []
        self.erased: set[str] = set()
        """Ids of tasks that are erased although a page still held them."""
        self.page = 3
        self.asked: Counter[str] = Counter()
        self.fault: Callable[[str], tuple[int, dict[str, str]] | None] = lambda _: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def fetched(self) -> Counter[str]:
        """How often each picture was asked for."""
        return Counter({path[-64:]: count for path, count in self.asked.items() if "/pictures/" in path})

    def add(self, number: int, letters: str = "AC", **changes: Any) -> dict[str, Any]:
        """A reviewed decision. What is wrong with a picture outside `letters` depends on its place (`WRONG`)."""
        files = []
        for position in range(5):
            data = picture(number, position)
            digest = sha256(data).hexdigest()
            self.pictures[digest] = data
            files.append({"position": position, "sha256": digest, "media_type": "image/png", "bytes": len(data)})
        item: dict[str, Any] = {
            "task": f"tsk_{number:03d}",
            "job": "review",
            "decision": f"scr_{number:03d}",
            "sample": None,
            "batch": None,
            "product": f"product {number}",
            "reason": "audit",
            "inclusion_probability": 0.25,
            "checkpoint": "sha256:" + "c" * 64,
            "model": {"choice": "A", "acceptable": ["A"], "confidence": 0.7, "reasoning": "It says nothing of use."},
            "decided": "agreed",
            "reviewers": 2,
            "letters": letters,
            "pictures": [
                {
                    "option": option,
                    "usable": option in letters,
                    "dimensions": {} if option in letters else dict(WRONG[option]),
                    "comment": None if option in letters else "wrong",
                }
                for option in "ABCD"
            ],
            "files": files,
            "reviews": [f"review-b-{number}", f"review-a-{number}"],
            "at": (BEGIN + timedelta(hours=number)).isoformat(),
        } | changes
        self.items.append(item)
        return item

    def erase(self, task: str) -> None:
        """Remove a task with the pictures that no other one shows."""
        self.items = [item for item in self.items if item["task"] != task]
        shown = {file["sha256"] for item in self.items for file in item["files"]}
        self.pictures = {digest: data for digest, data in self.pictures.items() if digest in shown}

    def handle_error(self, request: object, client_address: object) -> None:
        """Some tests kill their client on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Reviews

    def do_GET(self) -> None:
        parts, server = urlsplit(self.path), self.server
        if self._stopped(parts.path):
            return
        if parts.path == "/review/stats":
            self._send(200, {"agreement": AGREEMENT, "queue": {}})
        elif parts.path == "/review/export":
            query = parse_qs(parts.query)
            after = query.get("cursor", [""])[0]
            rest = [item for item in sorted(server.items, key=lambda item: item["task"]) if item["task"] > after]
            page = rest[: server.page]
            self._send(200, {"items": page, "next": page[-1]["task"] if len(rest) > len(page) else None})
        elif data := server.pictures.get(parts.path.removeprefix("/review/export/pictures/")):
            self._send(200, data)
        else:
            self._send(404, {"detail": "There is nothing here."})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._stopped(self.path):
            return
        there = {item["task"] for item in self.server.items} - self.server.erased
        if not set(body["tasks"]) <= there:
            for task in self.server.erased:
                self.server.erase(task)
            self._send(409, {"detail": "A task was erased."})
            return
        self.server.exports.append(body)
        self._send(201, {"id": f"exp_{len(self.server.exports)}"})

    def _stopped(self, path: str) -> bool:
        self.server.asked[path] += 1
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self._send(401, {"detail": "The key is unknown."})
        elif fault := self.server.fault(path):
            status, headers = fault
            self._send(status, {"detail": "A fault."}, headers)
        else:
            return False
        return True

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(server: Reviews) -> threading.Thread:
    """Start the server on a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    return thread
