"""`python -m trainer history`: which version was in production when, who moved the alias and why."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from trainer.release.promote.command import STORE_HELP
from trainer.release.registry_options import add_registry_options, need_registry

if TYPE_CHECKING:
    from screening.checkpoint.registry import Registry, Version
    from trainer.release.promote.moves import Move
    from trainer.release.promote.standing import Standing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per move, oldest first (default: a table, newest first)",
    )
    add_registry_options(parser, store=STORE_HELP)


def run(args: argparse.Namespace) -> int:
    from screening.checkpoint.registry import CANDIDATE
    from trainer.release.promote.standing import read_standing

    registry = need_registry(args)
    standing, candidate = read_standing(registry), registry.resolve(CANDIDATE)
    moves = standing.history.moves
    if args.json:
        for one in moves:
            print(json.dumps(one.model_dump(mode="json"), ensure_ascii=False))
    else:
        print(render(registry, standing, candidate))
    for key in standing.history.unreadable:
        print(
            f"error: registry {registry}: the note {key} is damaged or was written by another version of the trainer",
            file=sys.stderr,
        )
    return 2 if standing.history.unreadable else 0


def render(registry: Registry, standing: Standing, candidate: Version | None) -> str:
    """The versions that the aliases point to, and the history as a table, newest first."""
    from trainer.runs.markdown import cell_text, table

    moves = standing.history.moves
    lines = [f"production: {standing.fault or _name(standing.version)}", f"candidate: {_name(candidate)}"]
    if disagreement := standing.disagreement:
        lines.append(
            f"{disagreement[0].upper()}{disagreement[1:]}. To finish an interrupted move, run its command again."
        )
    if not moves:
        return "\n".join([*lines, f"No moves yet in {registry}."])
    header = ["when", "what", "from", "to", "gate", "by", "why"]
    rows = [
        [
            one.at,
            one.kind,
            "-" if one.before is None else str(one.before),
            str(one.after),
            _gate(one),
            cell_text(one.by),
            cell_text(one.reason or "-"),
        ]
        for one in reversed(moves)
    ]
    return "\n".join([*lines, "", table(header, rows)])


def _name(version: Version | None) -> str:
    return f"version {version.number} ({version.digest})" if version else "none"


def _gate(move: Move) -> str:
    if move.gate is None:
        return "forced, not measured" if move.forced else "-"
    if move.gate.passed:
        return "passed"
    return f"forced: {len(move.gate.failed)} of {move.gate.criteria} not met"
