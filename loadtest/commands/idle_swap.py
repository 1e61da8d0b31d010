"""`python -m loadtest idle-swap`: duration of each part of a swap and of a restart, for any two checkpoints.

There is no load, so the durations depend only on the checkpoint. To measure real sizes without a trained model:

    python -m trainer random-init internvl3-2b --seed 0 --max-tokens 8 --out runs/2b/seed-0     (and once more, seed 1)
    python -m trainer publish --checkpoint runs/2b/seed-0 --store runs/2b-store --tracking-uri none     (and seed 1)
    python -m loadtest idle-swap --checkpoints runs/2b-store/*
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from statistics import median

import httpx

from loadtest import console
from loadtest.commands import options
from loadtest.results.record import Event, RunRecorder
from loadtest.results.summary import Verdict, as_json, at_least, exit_code, none_of, reported
from loadtest.targets.canary_checkpoints import Canary
from loadtest.targets.local_service import LocalService
from loadtest.targets.swapping import Operator
from loadtest.targets.watching import look
from screening.checkpoint.directory import verify
from screening.errors import CheckpointError
from screening.runtime.argument_types import above_zero, positive

PARTS = {
    "prepare_ms": "copy and verify, while answering",
    "drain_ms": "drain of requests in flight",
    "pause_ms": "pause, no request admitted",
    "load_ms": "  weights, part of the pause",
    "verify_ms": "  probes, part of the pause",
}
SECONDS = 1800.0
"""Value for the service's own time limits, which must not end a measurement."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=Path, nargs=2, required=True, metavar="DIR", help="two published checkpoints of one store"
    )
    parser.add_argument(
        "--swaps", type=positive, default=6, help="number of swaps from one checkpoint to the other (default: 6)"
    )
    parser.add_argument(
        "--ratio",
        type=above_zero,
        help="minimum ratio of restart time to swap time; a lower one fails (default: no limit)",
    )
    parser.add_argument(
        "--start-seconds",
        type=above_zero,
        default=SECONDS,
        metavar="SECONDS",
        help=f"maximum time for the started service to become ready, in seconds (default: {SECONDS:g})",
    )
    options.add_out(parser, "idle-swap")
    options.add_further(parser)


def run(args: argparse.Namespace) -> int:
    first, second = (Canary(path.resolve(), verify(path).digest, "") for path in args.checkpoints)
    if first.directory.parent != second.directory.parent or first.digest == second.digest:
        raise CheckpointError("--checkpoints must name two different checkpoints of one store.")
    with RunRecorder(args.out) as recorder:
        operator = Operator((first, second), recorder)
        limits = {"swap-reload-seconds": SECONDS, "engine-hang-seconds": SECONDS, "deadline-seconds": SECONDS}
        words = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
        words = [*operator.service_options, *words, *args.service]
        console.say("Starting the service …")
        with options.own_service(args, words, recorder.directory / "service.log") as service:
            asyncio.run(_swap(service, operator, recorder, args.swaps))
            stopping = time.perf_counter()
        console.say("Restarting the service for comparison …")
        with options.own_service(args, words, recorder.directory / "restarted.log") as service:
            recorder.note("restart", seconds=time.perf_counter() - stopping, start_seconds=service.start_seconds)
        verdicts = _verdicts(first.directory, recorder, args)
        recorder.summarise(as_json({"command": "idle-swap", "verdicts": verdicts, "passed": not exit_code(verdicts)}))
    print(*verdicts, f"raw data and summary: {recorder.directory}", sep="\n")
    return exit_code(verdicts)


async def _swap(service: LocalService, operator: Operator, recorder: RunRecorder, swaps: int) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        await look(recorder, service.process.pid, "start")
        for number in range(swaps):
            event = await operator.swap(http, "idle")
            took = event.facts["answered"] - event.at
            console.say(f"  swap {number + 1} of {swaps}: {took:.1f} s, {event.facts.get('how') or event.facts}")
            await look(recorder, service.process.pid, "swap")


def _verdicts(checkpoint: Path, recorder: RunRecorder, args: argparse.Namespace) -> list[Verdict]:
    swaps = recorder.of("swap")
    done = [event for event in swaps if event.facts["status"] == 200 and event.facts["how"] == "in_place"]
    (restart,) = recorder.of("restart")
    seconds = restart.facts["seconds"]
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    memory = [event.facts["memory_bytes"] / 2**20 for event in recorder.of("footprint")]
    verdicts = [
        reported("weights", f"{weights / 2**20:.0f} MiB"),
        none_of("swaps that failed or restarted the engine", len(swaps) - len(done)),
        *(reported(f"{text}: median, longest", _row(done, part)) for part, text in PARTS.items()),
        reported("restart: stop request until ready; start only", f"{seconds:.1f}; {_start(restart):.1f} s"),
        reported("memory at the start; after the first swap; at the end", "; ".join(_mib(memory))),
    ]
    if done:
        ratio = 1000 * seconds / median(event.facts["drain_ms"] + event.facts["pause_ms"] for event in done)
        criterion = "restart time / swap pause"
        verdicts.append(at_least(criterion, args.ratio, ratio) if args.ratio else reported(criterion, f"{ratio:.0f}"))
    return verdicts


def _row(swaps: list[Event], part: str) -> str:
    values = [event.facts[part] for event in swaps] or [float("nan")]
    return f"{median(values):.0f}, {max(values):.0f} ms"


def _start(restart: Event) -> float:
    return float(restart.facts["start_seconds"])


def _mib(memory: list[float]) -> list[str]:
    return [f"{memory[place]:.0f}" for place in (0, min(1, len(memory) - 1), -1)]
