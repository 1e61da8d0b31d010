"""The arguments of `screening-client decisions` and `screening-client feedback`."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import get_args

from screening_client.decision_results import FeedbackKind
from screening_client.result import Choice

_DECISION = "id of an answer, such as scr_01KAHD5Z0Q9YB7M2T4V6W8X0ZC"
_HELP_OF_KIND = {
    "shown": "the shop showed these pictures",
    "returned": "a customer returned the product because of these pictures",
    "verdict": "a person says that these pictures may be shown, and no others",
}


def add_list(command: argparse.ArgumentParser) -> None:
    command.add_argument("--since", type=_moment, metavar="TIME", help="answered then or later: 2026-01-31T09:00:00Z")
    command.add_argument("--until", type=_moment, metavar="TIME", help="answered before then")
    command.add_argument("--checkpoint", metavar="DIGEST", help="answered by this checkpoint")
    command.add_argument("--choice", choices=get_args(Choice), help="the chosen picture; N for none")
    command.add_argument("--min-confidence", type=float, metavar="CONFIDENCE", help="lowest confidence, 0 to 1")
    command.add_argument("--max-confidence", type=float, metavar="CONFIDENCE", help="highest confidence, 0 to 1")
    command.add_argument(
        "--needs-review",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="only answers with needs_review set, or only the others; default: both",
    )
    command.add_argument("--product", metavar="TEXT", help="metadata.product of the request")
    command.add_argument("--caller", metavar="NAME", help="name of the key that asked")
    command.add_argument(
        "--limit", type=_count, default=50, metavar="N", help="maximum number of decisions; default: %(default)s"
    )


def add_get(command: argparse.ArgumentParser) -> None:
    command.add_argument("decision", metavar="ID", help=_DECISION)


def add_picture(command: argparse.ArgumentParser) -> None:
    add_get(command)
    command.add_argument("position", type=int, metavar="POSITION", help="0 for the original, 1 to 4 for A to D")
    command.add_argument("--out", required=True, metavar="FILE", help="file to write; - is the standard output")


def add_feedback(command: argparse.ArgumentParser) -> None:
    add_get(command)
    kinds = command.add_mutually_exclusive_group(required=True)
    for kind in get_args(FeedbackKind):
        kinds.add_argument(f"--{kind}", metavar="LETTERS", help=f"{_HELP_OF_KIND[kind]}: AC for example, or N for none")
    command.add_argument("--comment", metavar="TEXT", help="free text of at most 4000 characters")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time with a time zone, such as 2026-01-31T09:00:00Z")
    return moment


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)
