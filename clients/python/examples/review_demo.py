"""Start the service with a review station, let it screen the example products, and make a review task of each.

    python clients/python/examples/review_demo.py                       real vLLM on models/tiny
    python clients/python/examples/review_demo.py --engine scripted     a scripted engine without a model
    python clients/python/examples/review_demo.py --keep runs/review    keep decisions and reviews for the next start

You then review in the browser, without signing in. Ctrl-C stops the service.

Exit codes: 0 you stopped it; 1 an error, which the message explains.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import httpx
from demo_products import DemoFailed, Product, load_products
from run_demo import run_demo

from loadtest.targets.local_service import local_client, started
from screening.runtime.environment import use_utf8
from screening_client import ScreenRequest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
STORE_SECONDS = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see the exit codes above."""
    arguments = _arguments(argv)
    return run_demo("review", lambda: _demo(arguments), stopped="Stopped.", stopped_status=0)


def _demo(arguments: argparse.Namespace) -> NoReturn:
    products = load_products(HERE / "products")
    with ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="screening-review-")))
        folder.mkdir(parents=True, exist_ok=True)
        database = folder.resolve() / "decisions.db"
        options = ["--review", "true", "--decisions", f"sqlite:///{database}", "--pictures", str(database.parent)]
        options += ["--engine", arguments.engine]
        if arguments.engine == "vllm":
            options += ["--checkpoint", str(REPOSITORY / "models" / "tiny")]
        print("Starting the service. Loading the model takes about half a minute …", flush=True)
        service = stack.enter_context(
            started(options, repository=REPOSITORY, start_seconds=600, on_wait=lambda _: None, port=arguments.port)
        )
        _make_tasks(service.url, products)
        print(f"\nReview at  {service.url}/review\n\nPress Ctrl-C to stop.", flush=True)
        code = service.process.wait()
        raise DemoFailed(f"the service ended with exit code {code}")


def _make_tasks(url: str, products: Sequence[Product]) -> None:
    """Screen the products, wait until the decisions are stored, and make a task of each; nothing if there are tasks."""
    with httpx.Client(base_url=url, trust_env=False) as http:
        if _has_tasks(http):
            return
        print(f"Screening {len(products)} example products …", flush=True)
        began = datetime.now(UTC)  # a start that was interrupted may have left decisions without tasks
        with local_client(url) as client:
            requests = [
                ScreenRequest(original=one.original, generated=one.generated, metadata={"product": one.name})
                for one in products
            ]
            client.screen_many(requests, concurrency=4)
        _wait(lambda: _stored(http) >= len(products))
        order = {"count": len(products), "reviews": 1, "since": began.isoformat()}
        http.post("/review/tasks", json=order).raise_for_status()


def _has_tasks(http: httpx.Client) -> bool:
    statistics = http.get("/review/stats")
    statistics.raise_for_status()
    return bool(statistics.json()["queue"])


def _stored(http: httpx.Client) -> float:
    """Number of decisions that the service has stored."""
    sample = 'screening_decisions_total{result="stored"} '
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(sample)]
    return sum(float(line.removeprefix(sample)) for line in lines)


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + STORE_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise DemoFailed(f"the decisions were not stored within {STORE_SECONDS} s")
        time.sleep(0.1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--engine",
        choices=("vllm", "scripted"),
        default="vllm",
        help="engine of the service (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="folder for decisions and reviews (default: a temporary one)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
