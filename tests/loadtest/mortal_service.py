"""A service whose engine can be killed, without an engine: two processes with the titles of vLLM's, and restarting.

    python mortal_service.py FAULT --port PORT and options that it ignores

While one of the two is dead it answers 503 with `Retry-After: 1` and creates both again. The first argument says what
goes wrong: `none`; `orphan`, processes of the old engine stay; `leak`, shared memory stays; `failing`, 500 from
the first death on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from service.schemas import ScreenAnswer

TITLES = ("VLLM::EngineCore", "VLLM::Worker")
RESTART_SECONDS = 0.3
ANSWER = ScreenAnswer.model_config["json_schema_extra"]["example"]


class Engine:
    """Restarts itself in a thread."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.restarted = 0
        self.processes = self._made()
        threading.Thread(target=self._watch, daemon=True).start()

    def _made(self) -> list[subprocess.Popen[bytes]]:
        # `cat` ends when its input closes, so with its parent; an orphan would not.
        program, arguments = ("/bin/sleep", ["600"]) if self.fault == "orphan" else ("/bin/cat", [])
        with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="mortal-", delete=self.fault != "leak") as shared:
            return [
                subprocess.Popen(
                    [title, *arguments], executable=program, stdin=subprocess.PIPE, pass_fds=[shared.fileno()]
                )
                for title in TITLES
            ]

    @property
    def failing(self) -> bool:
        return self.fault == "failing" and self.restarted > 0

    @property
    def alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def _watch(self) -> None:
        while True:
            time.sleep(0.05)
            if not self.alive:
                time.sleep(RESTART_SECONDS)
                old, new = self.processes, self._made()
                if self.fault != "orphan":
                    for process in old:
                        process.kill()
                        process.wait()
                self.processes = new
                self.restarted += 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def do_GET(self) -> None:
        self._answer(200 if self.engine.alive else 503, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.02)
        if self.engine.alive and not self.engine.failing:
            self._answer(200, ANSWER)
        else:
            self._answer(500 if self.engine.fault == "failing" else 503, {})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return None


if __name__ == "__main__":
    Handler.engine = Engine(sys.argv[1])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
