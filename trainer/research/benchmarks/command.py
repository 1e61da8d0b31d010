"""`python -m trainer benchmark`: divide a public benchmark, score a checkpoint on it, train on its training half."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from screening.answer import Mode
from screening.runtime.argument_types import not_negative, positive
from trainer.research.benchmarks.layouts import LAYOUTS
from trainer.research.benchmarks.questions import HALVES, Division, Part
from trainer.runs.arguments import add_batch, add_directory, add_mode, add_recipe, add_run_directory
from trainer.runs.sigterm import engine_ends_on_sigterm
from trainer.training.tracking.store import add_tracking_argument, choose_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    split = actions.add_parser("split", help="divide a downloaded benchmark into a training and a testing half")
    split.add_argument("name", choices=LAYOUTS, help="which benchmark")
    add_directory(split, "--data", "directory of the data set, downloaded from Hugging Face")
    add_directory(split, "--out", "new directory for the split benchmark")
    split.add_argument("--seed", type=not_negative, default=0, help="seed of the division (default: 0)")
    split.set_defaults(action=_split)

    evaluate = actions.add_parser("evaluate", help="score a checkpoint, overall and per subtask")
    add_directory(evaluate, "--data", "directory of a split benchmark")
    add_directory(evaluate, "--checkpoint", "directory of the checkpoint to score")
    add_directory(evaluate, "--out", "new directory, or one to continue or to score again")
    evaluate.add_argument(
        "--part",
        choices=[part.value for part in Part],
        default=Part.TEST.value,
        help="half to score, or both together (default: %(default)s)",
    )
    evaluate.add_argument("--limit", type=positive, metavar="N", help="only the first N questions (default: all)")
    add_batch(evaluate)
    add_mode(evaluate, Mode.DIRECT)
    evaluate.set_defaults(action=_evaluate)

    sft = actions.add_parser("sft", help="supervised fine-tuning on the answers of the training half")
    _add_training(sft)
    sft.set_defaults(action=_sft)

    hcm_grpo = actions.add_parser("hcm-grpo", help="stage 2 on the training half")
    _add_training(hcm_grpo)
    add_directory(
        hcm_grpo, "--predictions", "output directory of `benchmark evaluate --part train` for this checkpoint"
    )
    add_mode(hcm_grpo, Mode.DIRECT)
    hcm_grpo.set_defaults(action=_hcm_grpo)


def run(args: argparse.Namespace) -> int:
    """Run one action."""
    action: Callable[[argparse.Namespace], None] = args.action
    action(args)
    return 0


def _split(args: argparse.Namespace) -> None:
    from trainer.research.benchmarks.split import split

    print(_page(split(args.name, args.data, args.out, args.seed)))
    print(f"\nWritten to {args.out}")


def _evaluate(args: argparse.Namespace) -> None:
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


def _add_training(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_directory(parser, "--checkpoint", "directory of the checkpoint to start from")
    add_directory(parser, "--data", "directory of a split benchmark")
    add_run_directory(parser)
    add_tracking_argument(parser)


def _page(division: Division) -> str:
    """The report of a division as text."""
    from trainer.runs.markdown import table

    halves = [division.halves[half] for half in HALVES]
    subtasks = sorted({name for half in halves for name in half.subtasks})
    rows = [[name, *(str(half.subtasks.get(name, 0)) for half in halves)] for name in subtasks]
    rows.append(["together", *(str(half.questions) for half in halves)])
    here = sum(half.questions for half in halves)
    title = LAYOUTS[division.benchmark].title
    parts = [table([title, *HALVES], rows)]
    if here != division.published:
        parts.append(f"{title} has {division.published} questions with answers; this download has {here}.")
    parts.append(
        f"{division.groups} groups of questions that share a picture or are variants of each other, the largest of "
        f"{division.largest_group}.\nThe halves are frozen: {', '.join(half.digest for half in halves)}"
    )
    return "\n\n".join(parts)
