"""`python -m trainer rollback`: production goes back to the version before it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trainer.release.promote.command import STORE_HELP, add_move_options
from trainer.release.registry_options import add_registry_options, need_registry

if TYPE_CHECKING:
    from screening.checkpoint.registry import Registry, Version
    from trainer.release.promote.moves import History


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="go back although the history names another production than the registry"
    )
    add_move_options(parser, reason_needed=True)
    add_registry_options(parser, store=STORE_HELP)


def run(args: argparse.Namespace) -> int:
    from trainer.release.promote.moves import whoever

    print(rollback(need_registry(args), by=args.by or whoever(), reason=args.reason, force=args.force))
    return 0


def rollback(registry: Registry, *, by: str, reason: str, force: bool = False) -> str:
    """Let production name the version before it, if that is still whole. Returns a line for people.

    Args:
        force: go on where history and registry disagree about what is in production.

    Raises:
        MoveError: nothing is in production, nothing was before it, or that was deleted or replaced; or history and
            registry disagree.
        CheckpointError: the version before is not whole any more.
        RegistryError: the registry does not answer.
    """
    from trainer.release.promote.evidence import whole
    from trainer.release.promote.moves import MoveError, move
    from trainer.release.promote.standing import read_standing

    standing = read_standing(registry)
    doubt = None if standing.interrupted else standing.doubt()
    if doubt and not force:
        raise MoveError(f"{doubt}. Nothing was moved; --force goes back to what was in production before that")
    last = standing.history.last
    current = last.after if standing.alias is None and last else standing.alias
    if current is None:
        raise MoveError("nothing is in production; `promote` brings the first version there")
    target = _before(registry, standing.history, current)
    whole(target)
    move(registry, standing.alias, target, "rollback", by=by, reason=reason, forced=bool(doubt))
    return f"production: version {current} → version {target.number}, rolled back"


def _before(registry: Registry, history: History, current: int) -> Version:
    """The version that was in production before `current`, and the same checkpoint as then."""
    from trainer.release.promote.moves import MoveError, previous

    number = previous(history.moves, current)
    if number is None:
        raise MoveError(f"nothing was in production before version {current}")
    target = registry.version(number)
    if target is None:
        raise MoveError(f"version {number}, in production before, was deleted; promote another one")
    noted = {one.digest for one in history.moves if one.after == number}
    if noted and target.digest not in noted:
        raise MoveError(
            f"version {number} is another checkpoint ({target.digest}) than the one that was in production before: the "
            "model was registered again. Promote the version you want"
        )
    return target
