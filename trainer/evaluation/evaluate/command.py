"""`python -m trainer evaluate`: has a model answer every sample of a data directory, and scores it (paper, 5.1).

The model is a checkpoint on our own engine, or one at an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.endpoint.options import add_asking_options, add_endpoint_options, complaint, order_arguments
from trainer.runs.argument_types import level, positive

if TYPE_CHECKING:
    from trainer.evaluation.evaluate.result import Evaluation

UNFINISHED = 1
"""Exit status of an evaluation that the same command continues."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer evaluate`."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--checkpoint", type=Path, metavar="DIR", help="checkpoint to evaluate, with its screening.json")
    who.add_argument(
        "--endpoint", dest="base_url", metavar="URL", help="OpenAI-compatible endpoint, /v1 included; needs --model"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data directory with samples.jsonl")
    parser.add_argument(
        "--mode",
        choices=("cot", "direct"),
        default="cot",
        help="answer with chain of thought (cot) or with the letters alone (direct) (default: cot)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new directory, or that of an evaluation to continue or to score again",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="evaluate only the first N samples (default: all)")
    parser.add_argument(
        "--confidence-level",
        type=level,
        default=0.95,
        metavar="P",
        help="confidence level of the intervals, between 0 and 1 (default: %(default)s)",
    )
    checkpoint = parser.add_argument_group("with --checkpoint")
    checkpoint.add_argument(
        "--batch",
        type=positive,
        default=64,
        metavar="N",
        help="samples given to the engine at once (default: %(default)s)",
    )
    model = parser.add_argument_group(
        "with --endpoint (these decide the answers, so a continued evaluation must have the same values)"
    )
    model.add_argument("--model", metavar="NAME", help="name of the model at the endpoint")
    model.add_argument(
        "--prompt",
        choices=("standard", "compact"),
        default="standard",
        help="prompt of the questions (default: standard); a checkpoint has its own",
    )
    add_asking_options(model, temperature="0")
    add_endpoint_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say. Returns the exit status; prints an error that the user can mend in one line."""
    from screening.errors import ScreeningError
    from trainer.data_directory import DataError
    from trainer.endpoint.errors import EndpointError
    from trainer.evaluation.evaluate.errors import EvaluationError, Unfinished
    from trainer.evaluation.evaluate.plot import PLOT_NAME
    from trainer.evaluation.evaluate.report import REPORT_NAME, render
    from trainer.evaluation.evaluate.result import SCORES_NAME
    from trainer.runs.json_log import LogError

    if wrong := _complaint(args):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    try:
        evaluation = _by_checkpoint(args) if args.checkpoint else _by_endpoint(args)
    except Unfinished as error:
        print(f"error: {error}", file=sys.stderr)
        return UNFINISHED
    except EndpointError as error:
        print(f"error: {error}; the answers so far are kept. Run the same command again to continue", file=sys.stderr)
        return UNFINISHED
    except (DataError, EvaluationError, LogError, ScreeningError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the answers so far are kept. Run the same command again to continue", file=sys.stderr)
        return 128 + signal.SIGINT
    print(render(evaluation))
    names = [SCORES_NAME, REPORT_NAME, "predictions.jsonl", PLOT_NAME]
    print(f"Written to {args.out}: {', '.join(name for name in names if (args.out / name).exists())}")
    return 0


def _by_checkpoint(args: argparse.Namespace) -> Evaluation:
    from screening.answer import Mode
    from trainer.evaluation.evaluate.by_checkpoint import engine_ends_on_sigterm, evaluate

    with engine_ends_on_sigterm():
        return evaluate(
            args.checkpoint,
            args.data,
            args.out,
            mode=Mode(args.mode),
            limit=args.limit,
            batch=args.batch,
            confidence_level=args.confidence_level,
        )


def _by_endpoint(args: argparse.Namespace) -> Evaluation:
    from screening.answer import Mode
    from screening.prompt import PROMPTS
    from trainer.evaluation.evaluate.by_endpoint import Order, evaluate_endpoint

    return evaluate_endpoint(
        Order(
            **order_arguments(args),
            mode=Mode(args.mode),
            prompt=PROMPTS[args.prompt],
            confidence_level=args.confidence_level,
        )
    )


def _complaint(args: argparse.Namespace) -> str | None:
    """What is wrong with options that need each other, which argparse cannot check; None if nothing is."""
    if args.checkpoint and args.model:
        return "--model is only for --endpoint. Leave it out with --checkpoint"
    if args.base_url and not args.model:
        return "--endpoint needs --model, the name of the model at the endpoint"
    return complaint(args)
