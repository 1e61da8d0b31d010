"""`python -m trainer history`: what was in production when, moved by whom and why."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from trainer.promote.command import STORE_HELP
from trainer.registry_options import add_registry_options, need_registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from screening.registry import Registry, Version
    from trainer.promote.moves import Move


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: one move per line, oldest first")
    add_registry_options(parser, store=STORE_HELP)


def run(args: argparse.Namespace) -> int:
    from screening.errors import RegistryError
    from screening.registry import CANDIDATE, PRODUCTION
    from trainer.promote.moves import read_moves
    from trainer.tracking.store import TrackingError

    try:
        registry = need_registry(args)
        moves = read_moves(registry)
        aliases = {alias: registry.resolve(alias) for alias in (PRODUCTION, CANDIDATE)}
    except (RegistryError, TrackingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        for one in moves:
            print(json.dumps(one.model_dump(mode="json"), ensure_ascii=False))
        return 0
    print(render(registry, moves, aliases[PRODUCTION], aliases[CANDIDATE]))
    return 0


def render(registry: Registry, moves: Sequence[Move], production: Version | None, candidate: Version | None) -> str:
    """The history as a table, newest first, and what the aliases name now."""
    from trainer.evaluate.report import table

    lines = [f"production: {_name(production)}", f"candidate: {_name(candidate)}"]
    if moves and moves[-1].after != (production.number if production else None):
        lines.append(
            f"The last move leads to version {moves[-1].after}: the alias was moved by other means, or the move was "
            "interrupted. Give the command again to have it done."
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
            _cell(one.by),
            _cell(one.reason or "-"),
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
    return f"forced: {len(move.gate.failed)} of {move.gate.criteria} not kept"


def _cell(text: str) -> str:
    """Free text in a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")
