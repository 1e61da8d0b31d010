"""Services that load the promoted model or fail to; they are scripted and publish a digest among their metrics."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from screening.checkpoint.registry import PRODUCTION
from tests.trainer.release.retrain.shop import Shop
from trainer.release.promote.rollback import rollback
from trainer.release.retrain.config import Confirm
from trainer.release.retrain.confirm import addresses, confirm, served_by
from trainer.release.retrain.errors import Unconfirmed

pytestmark = pytest.mark.slow


@contextmanager
def service(digest: Callable[[], str]) -> Iterator[str]:
    """A service whose checkpoint a function returns at each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            labels = f'name="x",version="1",digest="{digest()}",engine="scripted"'
            self.wfile.write(
                f"# TYPE screening_checkpoint_info gauge\nscreening_checkpoint_info{{{labels}}} 1\n".encode()
            )

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(*services: str, seconds: float = 60, every_address: bool = False) -> Confirm:
    return Confirm(services=services, timeout_seconds=seconds, interval_seconds=0.01, every_address=every_address)


def test_a_service_that_follows_is_waited_for() -> None:
    answers = iter(["old", "old", "new", "new"])
    told: list[str] = []
    with service(lambda: next(answers)) as url:
        found = confirm(settings(url), "new", told.append)
    assert found["services"] == [url] and told == ["  waiting for 1 of 1 services"] * 2


def test_a_service_that_is_outdated_or_down_is_named() -> None:
    with service(lambda: "new") as good, service(lambda: "old") as late, pytest.raises(Unconfirmed) as raised:
        confirm(settings(good, late, "http://127.0.0.1:1", seconds=0.05), "new", lambda _: None)
    said = str(raised.value)
    assert f"{late}: old" in said and "http://127.0.0.1:1: no answer" in said and good not in said


def test_every_address_of_a_name_is_asked() -> None:
    with service(lambda: "new") as url:
        name = url.replace("127.0.0.1", "localhost")
        port = url.rpartition(":")[2]
        try:
            found = confirm(settings(name, every_address=True, seconds=0.5), "new", lambda _: None)["services"]
        except Unconfirmed as error:  # localhost is ::1 as well, where no server listens
            assert f"http://[::1]:{port}: no answer" in str(error) and "127.0.0.1" not in str(error)
        else:
            assert found == [url]


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:8000/shop", "http://127.0.0.1:8000/shop"),
        ("http://127.0.0.1/", "http://127.0.0.1:80"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_the_url_of_an_address_keeps_port_and_path(url: str, asked: str) -> None:
    assert addresses(settings(url, every_address=True)) == [asked]


def test_a_run_ends_when_the_service_serves_the_promoted_version(shop: Shop) -> None:
    def production() -> str:
        version = shop.registry.resolve(PRODUCTION)
        assert version is not None
        return version.digest

    with service(production) as url:
        shop.config["confirm"] = {"services": [url], "interval_seconds": 0.01}
        assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.stages["confirm"].result["services"] == [url]


def test_a_promotion_that_no_service_follows_is_an_alert_until_one_does(shop: Shop) -> None:
    served = "old"
    with service(lambda: served) as url:
        shop.config["confirm"] = {"services": [url], "timeout_seconds": 0.05, "interval_seconds": 0.01}
        assert shop.call() == 4
        run = shop.state.run
        assert run is not None and run.outcome is None and "roll back" in run.message
        assert "screening_retrain_exit_status 4.0" in shop.metrics
        served, shop.scripted.asked = shop.production or "", []
        assert shop.call() == 0
    assert shop.state.run is not None and shop.state.run.outcome == "promoted"
    assert shop.scripted.asked == [], "only the confirmation is repeated"
    assert len(shop.history.moves) == 2


def test_a_promotion_that_was_rolled_back_is_not_waited_for(shop: Shop) -> None:
    with service(lambda: "old") as url:
        shop.config["confirm"] = {"services": [url], "timeout_seconds": 0.05, "interval_seconds": 0.01}
        assert shop.call() == 4
        rollback(shop.registry, by="ann", reason="wrong shadows")
        assert shop.call() == 0
    run = shop.state.run
    assert run is not None and run.outcome == "superseded" and "version 1 now" in run.message


@pytest.mark.parametrize(
    "answer",
    [
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nscreening_checkpoint_info",
        b'HTTP/1.1 200 OK\r\n\r\nscreening_checkpoint_info{digest="new" 1 x {\n',
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
    ],
    ids=["no HTTP", "broken chunks", "cut off", "no metrics", "no text"],
)
def test_a_service_that_answers_nonsense_is_named(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert served_by(f"http://127.0.0.1:{server.getsockname()[1]}").startswith("no answer (")
        thread.join()
