"""`python -m trainer annotate`: captions, reasoning and answers for a data directory (paper, section 3.2).

progressive: a teacher describes, then reasons and answers; answer-driven: a teacher reasons towards the known label;
ground-truth: the renderer's own knowledge, with mistakes on demand.
"""

from __future__ import annotations

import argparse

from screening.errors import UserError
from screening.runtime.exits import UNFINISHED
from trainer.endpoint.options import add_asking_options, add_endpoint_options, complaint, order_arguments
from trainer.runs.argument_types import not_negative, positive, share
from trainer.runs.arguments import add_directory, add_limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three methods and their options."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    progressive = methods.add_parser("progressive", help="describe each picture, then reason and answer (weak labels)")
    answer_driven = methods.add_parser("answer-driven", help="write the reasoning that leads to the true label")
    ground_truth = methods.add_parser("ground-truth", help="from what the renderer planted; asks nobody")
    for method in (progressive, answer_driven, ground_truth):
        add_directory(method, "--data", "data directory to annotate")
        add_directory(method, "--out", "data directory to write, or to go on with")
        add_limit(method)
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
        type=share,
        default=0.0,
        metavar="P",
        help="share of samples that are made wrong (default: 0; the paper's teacher: 0.6175)",
    )
    ground_truth.add_argument("--seed", type=not_negative, default=0, help="of the mistakes (default: 0)")


def _teacher_arguments(parser: argparse.ArgumentParser) -> None:
    teacher = parser.add_argument_group("teacher (decides the result: going on with other values is refused)")
    teacher.add_argument("--model", required=True, help="its name at the endpoint")
    teacher.add_argument(
        "--attempts", type=positive, default=3, metavar="N", help="replies per question, at most (default: 3)"
    )
    add_asking_options(teacher, temperature="own")
    endpoint = add_endpoint_options(parser)
    endpoint.add_argument("--base-url", required=True, metavar="URL", help="OpenAI-compatible, with its /v1")


def run(args: argparse.Namespace) -> int:
    """Run one method; returns the exit status."""
    if args.method != "ground-truth" and (wrong := complaint(args)):
        raise UserError(wrong)
    if args.method == "ground-truth":
        from trainer.data.annotate.from_truth import annotate_from_truth

        report = annotate_from_truth(args.data, args.out, seed=args.seed, error_rate=args.error_rate, limit=args.limit)
    else:
        from trainer.data.annotate.by_teacher import Order, annotate_by_teacher

        order = Order(
            **order_arguments(args),
            method=args.method,
            reveal_issues=getattr(args, "reveal", "label") == "issues",
            attempts=args.attempts,
        )
        report = annotate_by_teacher(order)
    for line in report.lines:
        print(line)
    return 0 if report.annotation.complete and report.annotation.accepted.hits else UNFINISHED
