"""`python -m loadtest fleet`: simulate a fleet of pods, the autoscaler and its callers. No service is started.

The autoscaler's query and limits come from k8s/components/autoscaling, the limits of a pod from k8s/base/settings.env.
Callers retry as the SDK does. The speed of a pod is stated by two figures that `bench` measures: the time of a request
alone, and the answers per second when all slots are busy; in between, the time grows linearly with the number of
running requests. The defaults are those of models/tiny on two CPU cores. docs/capacity.md has figures and their limits.

    python -m loadtest fleet --pattern spike --rate 20 --peak 120
    python -m loadtest fleet --recorded runs/loadtest/sweep-…/requests.jsonl --start-seconds 300 --out runs/fleet
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from loadtest import console
from loadtest.commands import options
from loadtest.fleet.autoscaler import MANIFEST, read_limits
from loadtest.fleet.patterns import PATTERNS, arrivals, recorded
from loadtest.fleet.simulation import Fleet, Model
from loadtest.results import plots
from loadtest.results.fleet import periods, table, total
from loadtest.results.record import SUMMARY, new_directory
from loadtest.results.summary import as_json
from screening.errors import UserError
from screening.runtime.argument_types import above_zero
from screening.runtime.atomic_write import write_atomically

SETTINGS = Path("k8s", "base", "settings.env")
ROWS = 12
PLOTTED = 120
"""Number of periods in the table, and in the plot and summary."""


class ContradictoryOptions(UserError):
    """The arguments contradict each other."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--pattern",
        choices=tuple(PATTERNS),
        default="constant",
        help="load over the duration: constant at --rate; ramp from --rate to --peak; spike at --peak from a third to "
        "the half; daily, a cosine with --peak in the middle (default: constant)",
    )
    load.add_argument(
        "--recorded", type=Path, metavar="FILE", help="requests.jsonl whose send times are the load (default: none)"
    )
    parser.add_argument("--rate", type=above_zero, default=20, help="requests per second at the base (default: 20)")
    parser.add_argument(
        "--peak",
        type=above_zero,
        metavar="RATE",
        help="requests per second at the top, at least --rate (default: 5 times --rate)",
    )
    parser.add_argument("--minutes", type=above_zero, default=60, help="duration of a pattern in minutes (default: 60)")
    parser.add_argument(
        "--alone-seconds",
        type=above_zero,
        default=0.14,
        metavar="SECONDS",
        help="time of a request when a pod runs no other, in seconds (default: 0.14)",
    )
    parser.add_argument(
        "--capacity",
        type=above_zero,
        default=31.4,
        metavar="RATE",
        help="answers per second of one pod with all slots busy (default: 31.4)",
    )
    parser.add_argument(
        "--start-seconds",
        type=above_zero,
        default=120,
        metavar="SECONDS",
        help="time from the decision for a pod until it is ready, in seconds (default: 120)",
    )
    parser.add_argument(
        "--price", type=above_zero, default=1, help="price of a pod for one hour, in any currency (default: 1)"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        default=console.REPOSITORY / MANIFEST,
        metavar="FILE",
        help=f"ScaledObject to simulate, for example a changed copy (default: {MANIFEST})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new directory for summary.json and fleet.png (default: none)"
    )


def run(args: argparse.Namespace) -> int:
    limits, model = read_limits(args.manifest), pod_model(args)
    moments, seconds = _load(args)
    directory = new_directory(args.out) if args.out else None
    simulated = Fleet(model, limits, args.seed).run(moments, seconds)
    whole = total(simulated, args.price)
    print(table(periods(simulated, seconds, seconds / ROWS), whole))
    if directory:
        fine = periods(simulated, seconds, seconds / PLOTTED)
        plots.write(directory, fleet=plots.fleet(fine))
        summary = {"command": "fleet", "settings": options.settings(args), "limits": limits, "pod": model}
        text = json.dumps(as_json({**summary, "total": whole, "periods": fine}), indent=1)
        write_atomically(directory / SUMMARY, text + "\n")
        print(f"summary and plot: {directory}")
    return 0


def pod_model(args: argparse.Namespace) -> Model:
    """The model of a pod from the two measured figures and the service's settings.

    Raises:
        ContradictoryOptions: a request with all slots busy would be faster than one alone.
    """
    settings = dict(
        line.split("=", 1) for line in (console.REPOSITORY / SETTINGS).read_text().splitlines() if "=" in line
    )
    slots = int(settings["SCREENING_MAX_CONCURRENT"])
    each = (slots / args.capacity - args.alone_seconds) / (slots - 1)
    if each < 0:
        raise ContradictoryOptions(
            f"--capacity {args.capacity:g}: {slots} requests at once would each take {slots / args.capacity:.3g} s, "
            f"less than --alone-seconds {args.alone_seconds:g}. Lower one of them."
        )
    return Model(
        slots=slots,
        queue=int(settings["SCREENING_MAX_QUEUE"]),
        deadline=float(settings["SCREENING_DEADLINE_SECONDS"]),
        fixed=args.alone_seconds - each,
        each=each,
        start_seconds=args.start_seconds,
    )


def _load(args: argparse.Namespace) -> tuple[Iterable[float], float]:
    """Send times and the duration in seconds."""
    if args.recorded:
        moments = recorded(args.recorded)
        return moments, max(moments[-1], 1.0)
    peak = args.rate if args.pattern == "constant" else args.peak or 5 * args.rate
    if peak < args.rate:
        raise ContradictoryOptions(f"--peak {peak:g} is below --rate {args.rate:g}. Give a higher one.")
    seconds = 60 * args.minutes
    return arrivals(args.pattern, rate=args.rate, peak=peak, seconds=seconds, seed=args.seed), seconds
