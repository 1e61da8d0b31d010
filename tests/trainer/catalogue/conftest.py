"""A scripted checkpoint, and the command as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.trainer.catalogue import scripted
from tests.trainer.catalogue.scripted import ENGINE, make_checkpoint
from trainer.__main__ import main


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("catalogue") / "checkpoint")


class PictureServer(BaseHTTPRequestHandler):
    """Serves one picture, and fails in the middle of another."""

    def do_HEAD(self) -> None:
        self.send_response(404 if self.path == "/missing.png" else 200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response({"/one.png": 200, "/fails.png": 500}.get(self.path, 404))
        self.end_headers()
        if self.path == "/one.png":
            self.wfile.write(scripted.picture(1))

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def picture_server() -> Iterator[str]:
    """The address of a server with one picture."""
    with ThreadingHTTPServer(("127.0.0.1", 0), PictureServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Catalogue:
    """Runs the command on one output directory, and reads what it wrote."""

    def __init__(self, checkpoint: Path, out: Path) -> None:
        self.checkpoint = checkpoint
        self.out = out
        self.started: list[subprocess.Popen[str]] = []

    def arguments(self, data: Path, *more: str) -> list[str]:
        words = ["screen-dataset", "--checkpoint", self.checkpoint, "--data", data, "--out", self.out]
        workers = [] if "--workers" in more else ["--workers", "local"]
        return [*map(str, words), "--engine", ENGINE, "--batch", "4", *workers, *more]

    def run(self, data: Path, *more: str) -> int:
        """Run the command in this process."""
        from trainer.runs import run_directory

        try:
            return main(self.arguments(data, *more))
        finally:  # The lock of a run lasts as long as its process.
            for lock in run_directory._occupied.values():
                os.close(lock)
            run_directory._occupied.clear()

    def start(self, data: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
        """Start the command in a process of its own, which can be killed."""
        command = [sys.executable, "-m", "trainer", *self.arguments(data, *more)]
        root = Path(__file__).resolve().parents[3]
        variables = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}", **environment}
        process = subprocess.Popen(
            command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started.append(process)
        return process

    @property
    def answers(self) -> list[dict[str, Any]]:
        return self._rows("answers")

    @property
    def rejects(self) -> list[dict[str, Any]]:
        return self._rows("rejects")

    @property
    def answered(self) -> Counter[str]:
        """Number of answers by id."""
        return Counter(row["id"] for row in self.answers)

    @property
    def reasons(self) -> dict[str, str]:
        """Reason by id."""
        return {row["id"]: row["reason"] for row in self.rejects}

    def parts(self) -> list[Path]:
        return sorted((self.out / "answers").glob("*.parquet"))

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        paths = sorted((self.out / kind).glob("*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.fixture
def catalogue(checkpoint: Path, tmp_path: Path) -> Iterator[Catalogue]:
    catalogue = Catalogue(checkpoint, tmp_path / "out")
    yield catalogue
    for process in catalogue.started:
        if process.poll() is None:  # left by a failed test
            process.kill()
            process.communicate()


@pytest.fixture
def wait_for_parts(wait_until: Callable[..., None]) -> Callable[[Catalogue, int], None]:
    def wait(catalogue: Catalogue, count: int) -> None:
        wait_until(lambda: len(catalogue.parts()) >= count)

    return wait
