"""`screening-client decisions` and `screening-client feedback`: each returns a JSON document and a text for people."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, get_args

from screening_client.batch_results import STDOUT
from screening_client.client import Client
from screening_client.constants import LARGEST_PAGE
from screening_client.decision_calls import Filters
from screening_client.decision_results import DecisionSummary, Feedback, FeedbackKind
from screening_client.report import plain, report

Said: TypeAlias = "tuple[Any, str]"


def decisions(client: Client, arguments: argparse.Namespace) -> Said:
    """Run one of the commands below."""
    commands: Mapping[str, Callable[[Client, argparse.Namespace], Said]] = {
        "list": _list, "get": _get, "picture": _picture, "erase": _erase,
    }  # fmt: skip
    return commands[arguments.action](client, arguments)


def feedback(client: Client, arguments: argparse.Namespace) -> Said:
    """Send one piece of feedback."""
    kind: FeedbackKind
    kind = next(each for each in get_args(FeedbackKind) if getattr(arguments, each) is not None)
    given = client.decisions.feedback(
        arguments.decision, kind=kind, options=getattr(arguments, kind), comment=arguments.comment
    )
    return given.raw, _feedback(given)


def _list(client: Client, arguments: argparse.Namespace) -> Said:
    filters = {each.name: getattr(arguments, each.name) for each in fields(Filters)}
    found = client.decisions.list(**filters, page_size=min(arguments.limit, LARGEST_PAGE))
    some = list(islice(found, arguments.limit))
    return {"decisions": [one.raw for one in some]}, "\n".join(map(_line, some)) or "no decisions"


def _line(one: DecisionSummary) -> str:
    review = "review" if one.needs_review else ""
    facts = f"{one.id}  {one.created_at:%Y-%m-%d %H:%M:%S}Z  {one.choice or '-'}  {one.confidence:.2f}  {review:6}"
    return f"{facts}  {plain(one.product or '-')}"


def _get(client: Client, arguments: argparse.Namespace) -> Said:
    decision = client.decisions.get(arguments.decision)
    lines = [report(decision.answer), "", "feedback", *(f"  {_feedback(each)}" for each in decision.feedback)]
    return decision.raw, "\n".join(lines if decision.feedback else lines[:1])


def _feedback(given: Feedback) -> str:
    comment = f": {plain(given.comment)}" if given.comment else ""
    return f"{given.created_at:%Y-%m-%d %H:%M:%S}Z  {given.kind} {given.options or '-'}{comment}"


def _picture(client: Client, arguments: argparse.Namespace) -> Said:
    data = client.decisions.picture(arguments.decision, arguments.position)
    if arguments.out in STDOUT:
        sys.stdout.buffer.write(data)
        return None, ""
    Path(arguments.out).write_bytes(data)
    return {"out": arguments.out, "bytes": len(data)}, f"{arguments.out}: {len(data)} bytes"


def _erase(client: Client, arguments: argparse.Namespace) -> Said:
    client.decisions.erase(arguments.decision)
    return {"erased": arguments.decision}, f"{arguments.decision} is erased"
