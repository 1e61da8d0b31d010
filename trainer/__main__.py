"""The trainer's command line: `python -m trainer COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int | None`. It is imported only when chosen, so
that `--help` answers at once and a broken or missing extra of one stage does not stop another.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from screening import __version__
from screening.runtime.command_line import Parser
from screening.runtime.cpus import limit_threads
from screening.runtime.environment import name_the_user
from screening.runtime.exits import DISK_FULL, STOPPED, disk_full

COMMANDS: dict[str, tuple[str, str]] = {
    "render": ("trainer.data.render.command", "draw labelled samples: one original and four generated pictures each"),
    "import-pairs": (
        "trainer.data.import_pairs.command",
        "verdicts on single generated pictures become questions of four",
    ),
    "annotate": (
        "trainer.data.annotate.command",
        "write captions, reasoning and labels: by a teacher, or from the truth",
    ),
    "split": ("trainer.data.split.command", "divide data by product: training, testing, pseudo-label, exploration"),
    "plan": ("trainer.training.plan.command", "what a recipe will cost on given GPUs, and whether it can work"),
    "untrained": ("trainer.research.random_init", "true sizes, random weights: a checkpoint to try machines with"),
    "import": (
        "trainer.training.import_base",
        "a downloaded base model becomes a checkpoint that can be trained and served",
    ),
    "pretrain": ("trainer.research.pretrain.command", "make a small base model from random weights: see, read, speak"),
    "sft": ("trainer.training.sft.command", "supervised fine-tuning, stages 1.1 and 1.2 (language model only)"),
    "hard-cases": ("trainer.training.hard_cases.command", "find the training samples that the SFT model answers wrong"),
    "hcm-grpo": ("trainer.training.hcm_grpo.command", "reinforcement learning with hard cases mining, stage 2"),
    "evaluate": (
        "trainer.evaluation.evaluate.command",
        "score a checkpoint or an endpoint's model, overall and per dimension",
    ),
    "compare": (
        "trainer.evaluation.compare.command",
        "two evaluations of the same data: differences, tests, flipped answers",
    ),
    "report": (
        "trainer.training.report.command",
        "curves of a training, also of a running one; example decisions of stage 2",
    ),
    "calibrate": (
        "trainer.evaluation.calibrate.command",
        "fit a checkpoint's confidence on validation answers, into its manifest",
    ),
    "domain": ("trainer.evaluation.domain.command", "describe the trained pictures, so that others are flagged"),
    "card": ("trainer.release.card", "write a checkpoint's scores into its manifest and its model card"),
    "publish": (
        "trainer.release.publish.command",
        "prove a checkpoint in the real engine, copy it into a store, register it",
    ),
    "promote": ("trainer.release.promote.command", "a published version into production, if it passes the gate"),
    "rollback": ("trainer.release.promote.rollback", "production back to the version before it"),
    "history": ("trainer.release.promote.history", "what was in production when, moved by whom and why"),
    "retrain": (
        "trainer.release.retrain.command",
        "all of it, from new labels to production: decide, train, measure, publish, promote, confirm",
    ),
    "ablation": ("trainer.research.ablation.command", "what each part of the method brings: the paper's tables 5 to 7"),
    "bench-train": ("trainer.training.hcm_grpo.bench", "speed of a step of stage 2, ours beside TRL's"),
    "benchmark": ("trainer.research.benchmarks.command", "public multi-image benchmarks: divide, score, train"),
}
"""Command → (module, one line for --help), in the order of a retraining."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"screening {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"trainer: there is no command {name!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, arguments: Sequence[str]) -> int:
    """Run a command. What any of them can meet ends here, in one sentence; what only one can, in its own `run`."""
    module, summary = COMMANDS[name]
    limit_threads(os.environ)
    name_the_user(os.environ)
    args = argparse.Namespace()
    try:
        command = importlib.import_module(module)
        parser = Parser(prog=f"python -m trainer {name}", description=summary)
        command.add_arguments(parser)
        parser.parse_args(arguments, args)
        return int(command.run(args) or 0)
    except ModuleNotFoundError as error:  # heavy imports come late, in the command's `run`
        print(
            f"trainer: the command {name!r} cannot start, the module {error.name!r} is missing. "
            "Install the trainer's extra: pip install '.[cpu,trainer]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there, or begins again", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if full := disk_full(error, getattr(args, "out", None) or getattr(args, "store", None)):
            print(f"error: {full}", file=sys.stderr)
            return DISK_FULL
        if isinstance(error, OSError):
            print(f"error: {error}", file=sys.stderr)
            return 2
        raise


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    usage = "usage: python -m trainer COMMAND [--help] …"
    return "\n".join([usage, "", "commands, in the order of a retraining:", *lines])


if __name__ == "__main__":
    sys.exit(main())
