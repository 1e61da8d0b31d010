"""Pictures that are named by URL are fetched from a real server: completely, checked, and once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from trainer.data.import_pairs.download import TRIES, download
from trainer.endpoint.pace import Clock


class Impatient(Clock):
    """Time that passes only when it is slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._now = 0.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += seconds


def png(size: int = 64) -> bytes:
    target = BytesIO()
    Image.new("RGB", (size, size), (10, 120, 90)).save(target, "PNG")
    return target.getvalue()


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/busy": (429, {"Retry-After": "7"}, b""),
    "/down": (503, {}, b""),
    "/gone": (404, {}, b""),
    "/patience": (503, {"Retry-After": "86400"}, b""),
    "/page": (200, {}, b"<html>please sign in</html>"),
    "/torn": (200, {}, png()[:70]),
    "/short": (200, {"Content-Length": str(len(png()) + 100)}, png()),
    "/huge": (200, {}, b"\0" * (11 * 2**20)),
    "/icon": (200, {}, png(16)),
    "/moved": (302, {"Location": "/whole"}, b""),
    "/loop": (302, {"Location": "/loop"}, b""),
}
"""Path → status, headers, body; any other path is a complete picture."""


class Shop(ThreadingHTTPServer):
    """Answers by path; `busy` fails twice, then works."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Shop)
        self.server.asked[self.path] += 1
        self.server.agents.add(self.headers["User-Agent"])
        status, headers, body = ANSWERS.get(self.path, (200, {}, png()))
        if self.path == "/busy" and self.server.asked[self.path] > 2:
            status, headers, body = 200, {}, png()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(shop: Shop, images: Path, *paths: str) -> tuple[int, int, dict[str, str], Impatient]:
    clock = Impatient()
    urls = {f"{path[1:]}.img": shop.url(path) for path in paths}
    done = download(urls, images, per_minute=6000, clock=clock)
    return done.fetched, done.there, {url.rsplit("/", 1)[1]: reason for url, reason in done.failed.items()}, clock


def test_pictures_are_fetched_once(shop: Shop, tmp_path: Path) -> None:
    assert fetch(shop, tmp_path, "/one", "/two", "/moved")[:3] == (3, 0, {})
    assert (tmp_path / "one.img").read_bytes() == png()
    assert fetch(shop, tmp_path, "/one", "/two", "/moved", "/three")[:3] == (1, 3, {})
    assert shop.asked["/one"] == 1
    assert shop.agents == {"screening-trainer import-pairs"}


def test_an_incomplete_or_unusable_picture_is_never_kept(shop: Shop, tmp_path: Path) -> None:
    fetched, _, failed, _ = fetch(
        shop, tmp_path, "/page", "/torn", "/icon", "/short", "/huge", "/gone", "/loop", "/whole"
    )
    assert fetched == 1
    assert set(failed) == {"page", "torn", "icon", "short", "huge", "gone", "loop"}
    assert "not a usable picture" in failed["page"]
    assert "not a usable picture" in failed["torn"]
    assert "at least 32 pixels" in failed["icon"]
    assert "more than 10 MiB" in failed["huge"]
    assert failed["gone"] == "the server answers 404"
    assert shop.asked["/gone"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["whole.img"]


def test_a_busy_server_is_given_the_time_that_it_asks_for(shop: Shop, tmp_path: Path) -> None:
    fetched, _, failed, clock = fetch(shop, tmp_path, "/busy")
    assert (fetched, failed) == (1, {})
    assert shop.asked["/busy"] == 3
    assert sum(clock.slept) >= 14


def test_a_server_that_is_down_ends_no_run(shop: Shop, tmp_path: Path) -> None:
    fetched, _, failed, _ = fetch(shop, tmp_path, "/down", "/patience", "/whole")
    assert fetched == 1
    assert failed["down"] == f"the server answers 503, {TRIES} times"
    assert "asks to wait 86400 s" in failed["patience"]
    assert shop.asked["/patience"] == 1


def test_an_invalid_url_is_reported(shop: Shop, tmp_path: Path) -> None:
    done = download({"x.img": "http://[broken/"}, tmp_path, per_minute=6000, clock=Impatient())
    assert list(done.failed) == ["http://[broken/"]


def test_a_full_disk_is_an_error_and_not_a_failed_address(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / ".one.img.partial").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        fetch(shop, tmp_path, "/one")
