"""`python -m trainer rollback`: production goes back to the version before it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from trainer.promote.command import STORE_HELP, add_move_options
from trainer.registry_options import add_registry_options, need_registry

if TYPE_CHECKING:
    from screening.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_move_options(parser, reason_needed=True)
    add_registry_options(parser, store=STORE_HELP)


def run(args: argparse.Namespace) -> int:
    from screening.errors import ScreeningError
    from trainer.promote.moves import MoveError, whoever
    from trainer.tracking.store import TrackingError

    try:
        print(rollback(need_registry(args), by=args.by or whoever(), reason=args.reason))
    except (MoveError, ScreeningError, TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def rollback(registry: Registry, *, by: str, reason: str) -> str:
    """Let production name the version before it, if that is still whole. Returns a line for people.

    Raises:
        MoveError: nothing is in production, or nothing was before it.
        CheckpointError: the version before is not whole any more.
        RegistryError: the registry does not answer.
    """
    from screening.registry import PRODUCTION
    from trainer.promote.evidence import whole
    from trainer.promote.moves import MoveError, move, previous, read_moves

    current = registry.resolve(PRODUCTION)
    if current is None:
        raise MoveError("nothing is in production; `promote` brings the first version there")
    number = previous(read_moves(registry), current.number)
    if number is None:
        raise MoveError(f"nothing was in production before version {current.number}")
    target = registry.version(number)
    if target is None:
        raise MoveError(f"version {number}, in production before, was deleted; promote another one")
    whole(target)
    move(registry, current, target, "rollback", by=by, reason=reason)
    return f"production: version {current.number} → version {number}, rolled back"
