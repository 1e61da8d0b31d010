"""`python -m trainer evaluate`: has a model answer every sample of a data directory, and scores it (paper, 5.1).

The model is a checkpoint on our own engine, or one at an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from screening.errors import UserError
from screening.runtime.argument_types import level
from trainer.endpoint.options import add_asking_options, add_endpoint_options, complaint, order_arguments
from trainer.runs.arguments import add_batch, add_directory, add_limit, add_mode
from trainer.runs.sigterm import engine_ends_on_sigterm

if TYPE_CHECKING:
    from trainer.evaluation.evaluate.result import Evaluation
    from trainer.metrics import Metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer evaluate`."""
    who = parser.add_mutually_exclusive_group(required=True)
    add_directory(who, "--checkpoint", "checkpoint to evaluate, with its screening.json", required=False)
    who.add_argument(
        "--endpoint", dest="base_url", metavar="URL", help="OpenAI-compatible endpoint, /v1 included; needs --model"
    )
    add_directory(parser, "--data", "data directory with samples.jsonl")
    add_mode(parser)
    add_directory(parser, "--out", "new directory, or that of an evaluation to continue or to score again")
    add_limit(parser)
    parser.add_argument(
        "--confidence-level",
        type=level,
        default=0.95,
        metavar="P",
        help="confidence level of the intervals, between 0 and 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="add a metric of your own, a function in package.module:name; may be given several times",
    )
    checkpoint = parser.add_argument_group("with --checkpoint")
    add_batch(checkpoint)
    checkpoint.add_argument(
        "--locate",
        action="store_true",
        help="also ask where each issue is, and score the boxes; needs --mode cot and a checkpoint that was trained "
        "with the recipe setting `locate`",
    )
    model = parser.add_argument_group(
        "with --endpoint (these decide the answers, so a continued evaluation must have the same values)"
    )
    model.add_argument("--model", metavar="NAME", help="name of the model at the endpoint")
    model.add_argument(
        "--prompt",
        default="standard",
        metavar="NAME_OR_FILE",
        help="prompt of the questions: standard, compact, paper (the paper's, for one answer), or a YAML file with the "
        "texts `cot` and `direct` (default: standard); a checkpoint has its own",
    )
    add_asking_options(model, temperature="0")
    add_endpoint_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stage; returns the exit status."""
    from trainer.evaluation.evaluate.plot import PLOT_NAME
    from trainer.evaluation.evaluate.report import REPORT_NAME, render
    from trainer.evaluation.evaluate.result import SCORES_NAME

    if wrong := _complaint(args):
        raise UserError(wrong)
    evaluation = _by_checkpoint(args) if args.checkpoint else _by_endpoint(args)
    print(render(evaluation))
    names = [SCORES_NAME, REPORT_NAME, "predictions.jsonl", PLOT_NAME]
    print(f"Written to {args.out}: {', '.join(name for name in names if (args.out / name).exists())}")
    return 0


def _by_checkpoint(args: argparse.Namespace) -> Evaluation:
    from screening.answer import Mode
    from trainer.evaluation.evaluate.by_checkpoint import evaluate

    with engine_ends_on_sigterm():
        return evaluate(
            args.checkpoint,
            args.data,
            args.out,
            mode=Mode(args.mode),
            limit=args.limit,
            batch=args.batch,
            confidence_level=args.confidence_level,
            metrics=_metrics(args.metric),
            locate=args.locate,
        )


def _by_endpoint(args: argparse.Namespace) -> Evaluation:
    from screening.answer import Mode
    from trainer.evaluation.evaluate.by_endpoint import Order, evaluate_endpoint
    from trainer.prompt_texts import load_prompt

    return evaluate_endpoint(
        Order(
            **order_arguments(args),
            mode=Mode(args.mode),
            prompt=load_prompt(args.prompt),
            confidence_level=args.confidence_level,
            metrics=_metrics(args.metric),
        )
    )


def _metrics(named: Sequence[str]) -> Mapping[str, Metric]:
    """Those of every evaluation, and those of this one.

    Raises:
        ExtensionError: there is no such metric.
    """
    from screening.runtime.extensions import find
    from trainer.metrics import METRICS

    return {**METRICS, **{name: find(name, METRICS, "metric") for name in named}}


def _complaint(args: argparse.Namespace) -> str | None:
    """What is wrong with options that need each other, which argparse cannot check; None if nothing is."""
    if args.checkpoint and args.model:
        return "--model is only for --endpoint. Leave it out with --checkpoint"
    if args.base_url and not args.model:
        return "--endpoint needs --model, the name of the model at the endpoint"
    if args.locate and args.base_url:
        return "--locate is only for --checkpoint. Leave it out with --endpoint"
    if args.locate and args.mode != "cot":
        return "--locate needs --mode cot, because a direct answer names no issues"
    return complaint(args)
