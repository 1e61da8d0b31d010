"""A real Prometheus scrapes a service, and every query of the dashboards has data."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import httpx
import pytest

from loadtest.results.dashboards import ask, asking, queries
from loadtest.targets.local_service import started
from loadtest.targets.monitoring import monitoring
from service.__main__ import main as service_main
from tests.k8s.test_dashboards import write_retraining_metrics
from tests.service.obedient_engine import ADMIN, ADMIN_KEYS, make_checkpoint

pytestmark = pytest.mark.slow
PRODUCTS = Path(__file__).parents[2] / "clients" / "python" / "examples" / "products"

OF_THE_CLUSTER = """\
kube_cronjob_spec_suspend{cronjob="screening-retrain"} 0
kube_cronjob_status_last_successful_time{cronjob="screening-retrain"} 1.7e9
kube_job_status_active{job_name="screening-retrain-1"} 1
kube_job_status_failed{job_name="screening-retrain-1"} 0
kube_job_status_start_time{job_name="screening-retrain-1"} 1.7e9
kube_job_status_succeeded{job_name="screening-retrain-1"} 0
"""
"""What kube-state-metrics says while a retraining runs. There is no cluster here."""


@contextmanager
def exposing(text: str) -> Iterator[str]:
    """A server whose `/metrics` are this text; its `HOST:PORT`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def busy(url: str, database: str) -> Iterator[None]:
    """Callers, and an operator who swaps between two checkpoints and queues reviews, until the end of the block."""
    stop, names = Event(), itertools.cycle(["two", "one"])
    product = sorted(PRODUCTS.iterdir())[0]
    pictures = [(product / f"{name}.jpg").read_bytes() for name in ("original", *"abcd")]

    def screen() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            for number in itertools.count():
                if stop.wait(0.25):
                    return
                # Bytes after the end of a JPEG make another file of it. Each question is asked twice.
                files = [("original", pictures[0] + (number // 2).to_bytes(4, "big"))]
                files += [("generated", picture) for picture in pictures[1:]]
                client.post("/screen", files=files)

    def swap() -> None:
        while not stop.wait(2):
            httpx.post(f"{url}/admin/checkpoint", json={"checkpoint": next(names)}, headers=ADMIN, timeout=60)

    def queue_reviews() -> None:
        while not stop.wait(5):
            assert service_main(["review", "queue", "--decisions", database, "--count", "20"]) == 0

    threads = [Thread(target=work) for work in (screen, swap, queue_reviews)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_every_query_of_the_dashboards_returns_data(tmp_path: Path, registry_file: Path) -> None:
    store, database = tmp_path / "store", f"sqlite:///{tmp_path / 'decisions.db'}"
    for seed, name in enumerate(("one", "two")):
        make_checkpoint(store / name, seed)
    options = [
        "--engine", "tests.k8s.eventful_engine:make", "--checkpoint", str(store / "one"),
        "--checkpoint-store", str(store), "--state-dir", str(tmp_path / "state"), "--admin-keys", ADMIN_KEYS,
        "--registry", f"sqlite:///{registry_file}", "--registry-poll-seconds", "1",
        "--decisions", database, "--pictures", str(tmp_path / "pictures"), "--review", "true",
    ]  # fmt: skip
    retraining = write_retraining_metrics(tmp_path / "metrics")
    with (
        started(options, start_seconds=400, on_wait=lambda _: None) as service,
        exposing(OF_THE_CLUSTER + retraining) as others,
        monitoring(tmp_path / "monitoring", {"screening-0": urlsplit(service.url).netloc, "others": others}) as running,
        asking(running.prometheus) as prometheus,
        busy(service.url, database),
    ):
        missing = list(queries(rate_interval="20s"))
        assert len(missing) > 50
        until = time.monotonic() + 400
        while missing and time.monotonic() < until:
            time.sleep(1)
            missing = [query for query in missing if not ask(prometheus, query).values]
    assert not missing, "these queries returned nothing"
