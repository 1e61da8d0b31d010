"""`python -m trainer annotate`: captions, reasoning and answers for a data directory (paper, section 3.2).

progressive: a teacher describes, then reasons and answers; answer-driven: a teacher reasons towards the known label;
ground-truth: the renderer's own knowledge, with mistakes on demand.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from math import isfinite
from pathlib import Path
from typing import Any

UNFINISHED = 1
"""Exit status of a run that left questions open, or accepted none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three methods and their options."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    progressive = methods.add_parser("progressive", help="describe each picture, then reason and answer (weak labels)")
    answer_driven = methods.add_parser("answer-driven", help="write the reasoning that leads to the true label")
    ground_truth = methods.add_parser("ground-truth", help="from what the renderer planted; asks nobody")
    for method in (progressive, answer_driven, ground_truth):
        method.add_argument("--data", type=Path, required=True, metavar="DIR", help="data directory to annotate")
        method.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="data directory to write, or to go on with"
        )
        method.add_argument("--limit", type=_positive, metavar="N", help="only the first N samples (default: all)")
    for method in (progressive, answer_driven):
        _teacher_arguments(method)
    answer_driven.add_argument(
        "--reveal",
        choices=("label", "issues"),
        default="label",
        help="what the teacher is told: the label, as in the paper, or also each picture's issues (default: label)",
    )
    ground_truth.add_argument(
        "--error-rate",
        type=_share,
        default=0.0,
        metavar="P",
        help="share of samples that are made wrong (default: 0; the paper's teacher: 0.6175)",
    )
    ground_truth.add_argument("--seed", type=_not_negative, default=0, help="of the mistakes (default: 0)")


def _teacher_arguments(parser: argparse.ArgumentParser) -> None:
    teacher = parser.add_argument_group("teacher (decides the result: going on with other values is refused)")
    teacher.add_argument("--model", required=True, help="its name at the endpoint")
    teacher.add_argument(
        "--picture-size", type=_side, default=768, metavar="PX", help="longer side of the pictures (default: 768)"
    )
    teacher.add_argument(
        "--attempts", type=_positive, default=3, metavar="N", help="replies per question, at most (default: 3)"
    )
    teacher.add_argument(
        "--reply-tokens", type=_positive, default=1024, metavar="N", help="length of a reply, at most (default: 1024)"
    )
    teacher.add_argument(
        "--temperature", type=_amount, metavar="T", help="of its sampling (default: the endpoint's own)"
    )
    teacher.add_argument(
        "--extra-body",
        type=_object,
        default={},
        metavar="JSON",
        help="further fields of each request, as a JSON object",
    )
    endpoint = parser.add_argument_group("endpoint (may change from run to run)")
    endpoint.add_argument("--base-url", required=True, metavar="URL", help="OpenAI-compatible, with its /v1")
    endpoint.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key (default: OPENAI_API_KEY); none is sent if it is not set",
    )
    endpoint.add_argument(
        "--token-limit-name",
        choices=("max_tokens", "max_completion_tokens"),
        default="max_tokens",
        metavar="NAME",
        help="field that carries --reply-tokens: max_tokens (default) or max_completion_tokens",
    )
    endpoint.add_argument("--concurrency", type=_positive, default=8, metavar="N", help="requests at once (default: 8)")
    endpoint.add_argument(
        "--requests-per-minute",
        type=_above_zero,
        metavar="N",
        help="evenly spaced, retries included (default: no limit)",
    )
    endpoint.add_argument(
        "--tries", type=_positive, default=6, metavar="N", help="of one request that fails in passing (default: 6)"
    )
    endpoint.add_argument(
        "--timeout", type=_above_zero, default=120.0, metavar="S", help="seconds for one try (default: 120)"
    )
    spending = parser.add_argument_group("spending (over all runs in OUT; may change from run to run)")
    spending.add_argument("--max-tokens-total", type=_positive, metavar="N", help="stop before more tokens than this")
    spending.add_argument("--budget", type=_above_zero, metavar="X", help="stop before a higher cost; needs the prices")
    spending.add_argument("--price-prompt", type=_amount, metavar="X", help="of a million prompt tokens")
    spending.add_argument("--price-completion", type=_amount, metavar="X", help="of a million completion tokens")


def run(args: argparse.Namespace) -> int:
    """Run one method from parsed arguments. Returns the exit status; what a user can mend is printed in one line."""
    from trainer.annotate.errors import AnnotationError, EndpointError
    from trainer.records import DataError
    from trainer.run_directory import RunMismatch

    if complaint := _complaint(args):
        print(f"error: {complaint}", file=sys.stderr)
        return 2
    try:
        if args.method == "ground-truth":
            from trainer.annotate.from_truth import annotate_from_truth

            report = annotate_from_truth(
                args.data, args.out, seed=args.seed, error_rate=args.error_rate, limit=args.limit
            )
        else:
            from trainer.annotate.by_teacher import annotate_by_teacher

            report = annotate_by_teacher(_order(args))
    except EndpointError as error:
        print(f"error: {error}; what was answered is kept, the same command goes on from there", file=sys.stderr)
        return UNFINISHED
    except (AnnotationError, DataError, RunMismatch, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was answered is kept, the same command goes on from there", file=sys.stderr)
        return 128 + signal.SIGINT
    for line in report.lines:
        print(line)
    return 0 if report.annotation.complete and report.annotation.accepted.hits else UNFINISHED


def _complaint(args: argparse.Namespace) -> str | None:
    """What argparse cannot see: options that need each other."""
    if args.method == "ground-truth":
        return None
    priced = (args.price_prompt is not None, args.price_completion is not None)
    if any(priced) and not all(priced):
        return "give both --price-prompt and --price-completion, or neither"
    if args.budget is not None and not all(priced):
        return "--budget needs --price-prompt and --price-completion"
    if args.budget is not None and not (args.price_prompt or args.price_completion):
        return "--budget is never reached while both prices are 0"
    return None


def _order(args: argparse.Namespace) -> Any:
    """The arguments of a teacher's run; the key is read here and nowhere written."""
    import os

    from trainer.annotate.budget import Prices
    from trainer.annotate.by_teacher import Order
    from trainer.annotate.endpoint import Asking

    return Order(
        method=args.method,
        data=args.data,
        out=args.out,
        base_url=args.base_url,
        api_key=os.environ.get(args.api_key_env) or None,
        asking=Asking(
            model=args.model,
            reply_tokens=args.reply_tokens,
            length_field=args.token_limit_name,
            temperature=args.temperature,
            extra_body=args.extra_body,
        ),
        reveal_issues=getattr(args, "reveal", "label") == "issues",
        attempts=args.attempts,
        picture_size=args.picture_size,
        limit=args.limit,
        concurrency=args.concurrency,
        requests_per_minute=args.requests_per_minute,
        tries=args.tries,
        timeout=args.timeout,
        max_tokens=args.max_tokens_total,
        budget=args.budget,
        prices=None if args.price_prompt is None else Prices(args.price_prompt, args.price_completion),
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _side(text: str) -> int:
    value = _positive(text)
    if not 32 <= value <= 4096:
        raise argparse.ArgumentTypeError("must be between 32 and 4096 pixels")
    return value


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _above_zero(text: str) -> float:
    if (value := _amount(text)) == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _share(text: str) -> float:
    if (value := _amount(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
