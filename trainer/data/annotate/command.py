"""`python -m trainer annotate`: write captions, reasoning and answers for a data directory (paper, section 3.2).

progressive: a teacher describes the pictures, then reasons and answers. answer-driven: a teacher writes the reasoning
for the known label. ground-truth: the text is made from the renderer's record, with a chosen share of mistakes.
"""

from __future__ import annotations

import argparse

from screening.errors import UserError
from screening.runtime.argument_types import not_negative, positive, share
from screening.runtime.exits import UNFINISHED
from trainer.endpoint.options import add_asking_options, add_endpoint_options, complaint, order_arguments
from trainer.runs.arguments import add_directory, add_limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three methods and their options."""
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    progressive = methods.add_parser(
        "progressive", help="a teacher describes each picture, then reasons and answers (weak labels)"
    )
    answer_driven = methods.add_parser(
        "answer-driven", help="a teacher writes the reasoning that leads to the true label"
    )
    ground_truth = methods.add_parser(
        "ground-truth", help="write the reasoning from verdicts that name dimensions, without a teacher"
    )
    for method in (progressive, answer_driven, ground_truth):
        add_directory(method, "--data", "data directory to annotate")
        add_directory(method, "--out", "new data directory, or one to continue")
        add_limit(method)
    for method in (progressive, answer_driven):
        _teacher_arguments(method)
    answer_driven.add_argument(
        "--reveal",
        choices=("label", "issues"),
        default="label",
        help="tell the teacher the label, as in the paper, or also each picture's issues (default: label)",
    )
    ground_truth.add_argument(
        "--error-rate",
        type=share,
        default=0.0,
        metavar="P",
        help="share of samples to make wrong, 0 to 1 (default: 0; the paper's teacher: 0.6175)",
    )
    ground_truth.add_argument("--seed", type=not_negative, default=0, help="seed of the mistakes (default: 0)")


def _teacher_arguments(parser: argparse.ArgumentParser) -> None:
    teacher = parser.add_argument_group("teacher (decides the result; a run continues only with the same values)")
    teacher.add_argument("--model", required=True, help="name of the model at the endpoint")
    teacher.add_argument(
        "--attempts", type=positive, default=3, metavar="N", help="maximum number of replies per question (default: 3)"
    )
    add_asking_options(teacher, temperature="own")
    endpoint = add_endpoint_options(parser)
    endpoint.add_argument(
        "--base-url", required=True, metavar="URL", help="address of an OpenAI-compatible endpoint, including /v1"
    )


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
