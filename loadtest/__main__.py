"""The load tests' command line: `python -m loadtest COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`, imported only when chosen; the first
paragraph of its docstring and what follows is its `--help`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from screening import __version__
from screening.runtime.command_line import Parser
from screening.runtime.exits import DISK_FULL, STOPPED, disk_full

COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("loadtest.commands.bench", "throughput and latency at several numbers of concurrent callers"),
    "sweep": ("loadtest.commands.sweep", "rising rates in an open loop: saturation, refusals, tail latency"),
    "swap": ("loadtest.commands.swap", "another checkpoint every few seconds under load: nothing fails, nothing mixes"),
    "idle-swap": (
        "loadtest.commands.idle_swap",
        "a swap and a restart of any two checkpoints, part by part, without load",
    ),
    "kill": (
        "loadtest.commands.kill",
        "kill -9 of the engine's processes under load: no caller sees it, nothing is left",
    ),
    "soak": ("loadtest.commands.soak", "a steady rate for long with swaps now and then: does anything grow?"),
}
"""Command → (module, one line for --help)."""

EPILOG = """\
Each run writes a directory of its own, runs/loadtest/… unless --out names one, and never overwrites: requests.jsonl
(one line per request), events.jsonl (swaps, kills, memory), summary.json and plots. Ctrl-C ends a run early, with the
figures of what was done. Compare figures of one machine only; the load comes from the same cores as the service.
docs/operations.md explains how to read them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 1 when a criterion is not met or the run failed, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"screening {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"loadtest: there is no command {name!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = importlib.import_module(COMMANDS[name][0])
    parser = Parser(
        prog=f"python -m loadtest {name}",
        description=str(command.__doc__).partition("\n")[2].strip(),
        epilog=EPILOG if name != "bench" else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return _run(command.run, parser.parse_args(rest))


def _run(command: object, args: argparse.Namespace) -> int:
    from loadtest.commands.kill import NothingToKill
    from loadtest.load.rendered import NotRendered
    from loadtest.results.record import RunExists
    from loadtest.targets.baselines import PeerFailed
    from loadtest.targets.local_service import ServiceFailed
    from loadtest.targets.swapping import OracleBlind
    from screening.errors import CheckpointError

    try:
        return int(command(args))  # type: ignore[operator]
    except (CheckpointError, NothingToKill, NotRendered, OracleBlind, PeerFailed, RunExists, ServiceFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped before there was anything to report", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if full := disk_full(error, getattr(args, "out", None)):
            print(f"error: {full}", file=sys.stderr)
            return DISK_FULL
        if isinstance(error, OSError):
            print(f"error: {error}", file=sys.stderr)
            return 1
        raise


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    usage = "usage: python -m loadtest COMMAND [--help] …"
    return "\n".join([usage, "", "commands:", *lines, "", EPILOG])


if __name__ == "__main__":
    sys.exit(main())
