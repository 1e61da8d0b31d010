"""`python -m trainer benchmark`: divide a public benchmark, score a checkpoint on it, train on its training half."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from screening.answer import Mode
from trainer.evaluation.evaluate.command import UNFINISHED
from trainer.research.benchmarks.layouts import LAYOUTS
from trainer.research.benchmarks.questions import HALVES, Division, Part
from trainer.runs.argument_types import not_negative, positive
from trainer.training.tracking.store import TrackingError, add_tracking_argument, choose_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    split = actions.add_parser("split", help="divide a downloaded benchmark into a training and a testing half")
    split.add_argument("name", choices=LAYOUTS, help="which benchmark")
    _add_directory(split, "--data", "the data set as published, downloaded from Hugging Face")
    _add_directory(split, "--out", "new directory for the split benchmark")
    split.add_argument("--seed", type=not_negative, default=0, help="another seed is another division (default: 0)")
    split.set_defaults(action=_split)

    evaluate = actions.add_parser("evaluate", help="score a checkpoint, overall and per subtask")
    _add_directory(evaluate, "--data", "a split benchmark")
    _add_directory(evaluate, "--checkpoint", "with its screening.json")
    _add_directory(evaluate, "--out", "new directory, or one to go on with or to score again")
    evaluate.add_argument(
        "--part", choices=[part.value for part in Part], default=Part.TEST.value, help="default: %(default)s"
    )
    evaluate.add_argument("--limit", type=positive, metavar="N", help="only the first N questions (default: all)")
    evaluate.add_argument(
        "--batch", type=positive, default=64, metavar="N", help="questions at once (default: %(default)s)"
    )
    _add_mode(evaluate)
    evaluate.set_defaults(action=_evaluate)

    sft = actions.add_parser("sft", help="supervised fine-tuning on the answers of the training half")
    _add_training(sft)
    sft.set_defaults(action=_sft)

    hcm_grpo = actions.add_parser("hcm-grpo", help="stage 2 on the training half")
    _add_training(hcm_grpo)
    _add_directory(hcm_grpo, "--predictions", "what `benchmark evaluate --part train` wrote for this checkpoint")
    _add_mode(hcm_grpo)
    hcm_grpo.set_defaults(action=_hcm_grpo)


def run(args: argparse.Namespace) -> int:
    """Run one action. Returns the exit status; what a user can mend is printed in one line."""
    from screening.errors import ScreeningError
    from trainer.data_directory import DataError
    from trainer.evaluation.evaluate.errors import EvaluationError, Unfinished
    from trainer.runs.json_log import LogError
    from trainer.runs.run_directory import RunMismatch
    from trainer.training.distributed import LaunchError
    from trainer.training.hard_cases import HardCasesError
    from trainer.training.recipe import RecipeError

    refused = (DataError, EvaluationError, LogError, RunMismatch, ScreeningError)
    not_trained = (HardCasesError, LaunchError, RecipeError, TrackingError)
    action: Callable[[argparse.Namespace], None] = args.action
    try:
        action(args)
    except (*refused, *not_trained) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNFINISHED if isinstance(error, Unfinished) else 2
    except KeyboardInterrupt:
        print("error: stopped; run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _split(args: argparse.Namespace) -> None:
    from trainer.research.benchmarks.split import split

    print(_page(split(args.name, args.data, args.out, args.seed)))
    print(f"\nWritten to {args.out}")


def _evaluate(args: argparse.Namespace) -> None:
    from trainer.evaluation.evaluate.by_checkpoint import engine_ends_on_sigterm
    from trainer.research.benchmarks.evaluate import evaluate
    from trainer.research.benchmarks.report import render

    with engine_ends_on_sigterm():
        evaluation = evaluate(
            args.checkpoint,
            args.data,
            Part(args.part),
            args.out,
            mode=Mode(args.mode),
            limit=args.limit,
            batch=args.batch,
        )
    print(render(evaluation))
    print(f"Written to {args.out}: scores.json, report.md, answers.jsonl")


def _sft(args: argparse.Namespace) -> None:
    from trainer.research.benchmarks.sft import train

    train(args.recipe, args.checkpoint, args.data, args.out, choose_store(args.tracking_uri, args.out))


def _hcm_grpo(args: argparse.Namespace) -> None:
    from trainer.research.benchmarks.hcm_grpo import train

    tracking = choose_store(args.tracking_uri, args.out)
    train(args.recipe, args.checkpoint, args.data, args.predictions, args.out, Mode(args.mode), tracking)


def _add_directory(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    parser.add_argument(name, type=Path, required=True, metavar="DIR", help=meaning)


def _add_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=Mode.DIRECT.value,
        help="answer only, or think first (default: %(default)s)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", default="tiny", help="name of a shipped recipe or path of a YAML file (default: tiny)"
    )
    _add_directory(parser, "--checkpoint", "to start from; with its screening.json")
    _add_directory(parser, "--data", "a split benchmark")
    _add_directory(parser, "--out", "run directory; a killed run in it is continued")
    add_tracking_argument(parser)


def _page(division: Division) -> str:
    """What was divided, for people."""
    from trainer.runs.markdown import table

    halves = [division.halves[half] for half in HALVES]
    subtasks = sorted({name for half in halves for name in half.subtasks})
    rows = [[name, *(str(half.subtasks.get(name, 0)) for half in halves)] for name in subtasks]
    rows.append(["together", *(str(half.questions) for half in halves)])
    here = sum(half.questions for half in halves)
    title = LAYOUTS[division.benchmark].title
    parts = [table([title, *HALVES], rows)]
    if here != division.published:
        parts.append(f"{title} has {division.published} questions with answers; {here} are in this download.")
    parts.append(
        f"{division.groups} groups of questions that share a picture or are variants of each other, the largest of "
        f"{division.largest_group}.\nThe halves are frozen: {', '.join(half.digest for half in halves)}"
    )
    return "\n\n".join(parts)
