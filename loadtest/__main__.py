"""The load tests' command line: `python -m loadtest COMMAND …`.

Exit status: 0 when every criterion is met, 1 when one is not met or the run failed, 2 when an argument or a file
cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from screening.runtime.commands import CommandLine
from screening.runtime.environment import use_utf8

COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("loadtest.commands.bench", "measure throughput and latency at several numbers of concurrent callers"),
    "sweep": ("loadtest.commands.sweep", "raise the request rate in an open loop: saturation, refusals, tail latency"),
    "swap": ("loadtest.commands.swap", "swap checkpoints every few seconds under load and check every answer"),
    "idle-swap": (
        "loadtest.commands.idle_swap",
        "time each part of a swap and of a restart without load, for any two checkpoints",
    ),
    "kill": (
        "loadtest.commands.kill",
        "kill -9 the engine's processes under load and check that no caller sees an error",
    ),
    "soak": ("loadtest.commands.soak", "run a steady load with occasional swaps for a long time and measure growth"),
    "decisions": (
        "loadtest.commands.decisions",
        "compare a service that stores decisions with one that does not, in turns: throughput and latency",
    ),
    "catalogue": (
        "loadtest.commands.catalogue",
        "compare `trainer screen-dataset` on Ray with `screening-client batch` on a service, and kill it",
    ),
    "observe": (
        "loadtest.commands.observe",
        "show a service under load in Prometheus, with the value of every query of the dashboards",
    ),
    "fleet": (
        "loadtest.commands.fleet",
        "simulate an autoscaled fleet under a load pattern: replicas, latency, refusals, cost",
    ),
}
"""Command → (module, one line for --help)."""

NOTES = """\
Each run writes its own directory, runs/loadtest/… unless --out names one, and never overwrites another: requests.jsonl
(one line per request), events.jsonl (swaps, kills, memory), summary.json and plots. Ctrl-C ends a run early and reports
what was measured so far. Only compare figures from the same machine, since load and service share its CPU cores.
docs/load-tests.md explains the figures."""


def _describe(command: ModuleType, summary: str) -> dict[str, Any]:
    """Text for `--help`: the summary, and the docstring of the module without its first line."""
    without_directory = ("bench", "catalogue", "decisions", "fleet", "observe")
    writes_directory = command.__name__.rpartition(".")[2] not in without_directory
    return {
        "description": f"{summary[0].upper()}{summary[1:]}.\n\n{str(command.__doc__).partition(chr(10))[2].strip()}",
        "epilog": NOTES if writes_directory else None,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


COMMAND_LINE = CommandLine(program="loadtest", commands=COMMANDS, notes=NOTES, describe=_describe)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return COMMAND_LINE.main(argv)


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
