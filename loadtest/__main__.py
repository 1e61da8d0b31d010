"""`python -m loadtest bench`: the service under load, one run, ratios."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    """Parse, start a service unless one is named, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Measure a service under load. Compare figures of one run only: machines differ and are noisy.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="throughput and latency at several numbers of concurrent callers")
    bench.add_argument("--base-url", help="a running service (default: start one, and stop it at the end)")
    bench.add_argument(
        "--checkpoint", type=Path, default=REPOSITORY / "models" / "tiny", help="for the started service"
    )
    bench.add_argument("--engine", choices=("vllm", "scripted"), default="vllm", help="for the started service")
    bench.add_argument(
        "--clients", type=int, nargs="+", default=[1, 8, 32], help="concurrent callers (default: 1 8 32)"
    )
    bench.add_argument("--requests", type=int, default=96, help="requests per number of callers (default: 96)")
    bench.add_argument("--picture-size", type=int, default=800, help="side of the JPEGs in pixels (default: 800)")
    bench.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()

    from loadtest.bench import measure
    from loadtest.local_service import ServiceFailed, running

    if args.base_url:
        asyncio.run(measure(args.base_url, args))
        return 0
    options = ["--engine", args.engine, "--max-concurrent", str(max(args.clients))]
    if args.engine == "vllm":
        options += ["--checkpoint", str(args.checkpoint)]
    try:
        print("starting the service …", flush=True)
        with running(options, repository=REPOSITORY, start_seconds=300, on_wait=lambda _: None) as url:
            asyncio.run(measure(url, args))
    except ServiceFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
