"""`python -m loadtest sweep`: raise the request rate in an open loop until the service refuses requests.

It shows the rate that the service can sustain, the latency at each rate, and how the service refuses the rest.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import takewhile

from loadtest import console
from loadtest.commands import options
from loadtest.commands.target import Target, add_target, plain_options, target
from loadtest.load.arrivals import KINDS, arrivals
from loadtest.load.asking import open_asker
from loadtest.load.loops import closed_loop, open_loop, stoppable
from loadtest.results import plots
from loadtest.results.record import RunRecorder
from loadtest.results.summary import PERCENTILES, Load, as_json, load_figures, load_text
from loadtest.targets.watching import progress
from screening.runtime.argument_types import above_zero

WARM_UP_SECONDS = 3.0
KEEPS_UP = 0.95
"""Minimum ratio of `Load.sustained` to `Load.offered` for the service to keep up."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rates",
        type=_rates,
        default=[1.0, 2.0, 4.0, 8.0],
        metavar="R,R,…",
        help="requests per second, measured one after the other (default: 1,2,4,8)",
    )
    parser.add_argument("--seconds", type=above_zero, default=30, help="duration of each rate in seconds (default: 30)")
    parser.add_argument(
        "--arrivals",
        choices=KINDS,
        default="poisson",
        help="arrival times: independent callers (poisson) or equal gaps (constant) (default: poisson)",
    )
    parser.add_argument(
        "--timeout",
        type=above_zero,
        default=90,
        metavar="SECONDS",
        help="maximum time of one request in seconds (default: 90)",
    )
    add_target(parser)
    options.add_run(parser, "sweep")


def run(args: argparse.Namespace) -> int:
    with RunRecorder(args.out) as recorder:
        with target(args, plain_options(args), recorder.directory / "service.log") as aim:
            loads = asyncio.run(measure(aim, recorder, args))
        report(loads, recorder, args)
    return 0


async def measure(aim: Target, recorder: RunRecorder, args: argparse.Namespace) -> dict[float, Load]:
    """Measure the rates in turn. Each rate starts after the last answer at the previous rate."""
    questions = options.questions(args)
    loads: dict[float, Load] = {}
    async with (
        stoppable() as stop,
        open_asker(aim.url, questions, recorder, api_key=aim.api_key, seconds=args.timeout) as asker,
    ):
        asker.stage = "warm-up"
        await closed_loop(1, asker.ask, until=stop.sleep(WARM_UP_SECONDS), stop=stop)
        for number, rate in enumerate(args.rates):
            if stop.asked:
                break
            asker.stage, before, began = f"{rate:g}/s", len(recorder.exchanges), recorder.now
            recorder.note("rate", rate=rate)
            moments = arrivals(args.arrivals, rate, args.seconds, args.seed + number)
            async with progress(recorder, asker.stage, args.seconds):
                given_up = await open_loop(moments, asker.ask, now=lambda: recorder.now, began=began, stop=stop)
            sending = min(args.seconds, recorder.now - began)
            loads[rate] = load_figures(
                recorder.exchanges[before:], limit_ms=args.limit_ms, sending=sending, given_up=given_up
            )
            console.say(f"\n{rate:g} per second\n{load_text(loads[rate])}")
    return loads


def report(loads: dict[float, Load], recorder: RunRecorder, args: argparse.Namespace) -> None:
    by_rate = {f"{rate:g}": load for rate, load in loads.items()}
    kept = keeps_up_at(loads)
    most = max((load.achieved for load in loads.values()), default=0.0)
    recorder.summarise(
        as_json(
            {
                "command": "sweep",
                "settings": options.settings(args),
                "rates": by_rate,
                "keeps_up_at": kept,
                "most_answered_per_second": most,
            }
        )
    )
    steps = recorder.of("rate")
    began = steps[0].at if steps else 0.0
    swept = [each for each in recorder.exchanges if each.intended >= began]
    plots.write(
        recorder.directory,
        rates=plots.rates(loads) if loads else None,
        latency=plots.latency_over_time(swept, [(event.at - began, "rate") for event in steps], began=began),
        distribution=plots.distribution(
            {
                f"{rate:g}/s": [1000 * e.latency for e in recorder.exchanges if e.answered and e.stage == f"{rate:g}/s"]
                for rate in loads
            }
        ),
    )
    print(table(loads, args.limit_ms))
    found = "with none of these rates" if kept is None else f"up to {kept:g} requests per second"
    print(f"keeps up {found}; at most {most:.2f} answers per second", f"raw data: {recorder.directory}", sep="\n")


def keeps_up_at(loads: dict[float, Load]) -> float | None:
    """The highest rate, in requests per second, below the lowest one with which the service did not keep up.

    None if it did not keep up with the lowest rate, or if no rate was measured.
    """
    kept = takewhile(lambda rate: loads[rate].sustained >= KEEPS_UP * loads[rate].offered, sorted(loads))
    return max(kept, default=None)


def table(loads: dict[float, Load], limit_ms: float) -> str:
    """A table with one row per rate."""
    head = ("offered/s", "answered/s", "good/s", *(f"p{p:g} ms" for p in PERCENTILES), "429", "503")
    lines = ["".join(f"{name:>11}" for name in (*head, "refused ms", "told wait s", "other"))]
    for load in loads.values():
        refused = round((load.share_429 + load.share_503) * load.requests)
        cells = [
            *(f"{rate:.2f}" for rate in (load.offered, load.achieved, load.goodput)),
            *(f"{value:.0f}" for value in load.latency_ms.values()),
            *(f"{share:.1%}" for share in (load.share_429, load.share_503)),
            f"{load.reject_ms['p50']:.0f}",
            f"{load.retry_after['p50']:.0f}",
            str(sum(load.failed.values()) - refused),
        ]
        lines.append("".join(f"{'-' if cell == 'nan' else cell:>11}" for cell in cells))
    lines.append(f"good: answered within {limit_ms:g} ms; refused ms, told wait s: medians of the refused requests")
    return "\n".join(lines)


def _rates(text: str) -> list[float]:
    rates = [above_zero(part) for part in text.split(",")]
    if len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(f"{text} contains a rate twice")
    return rates
