"""`python -m trainer rollback`: points the alias `production` to the version that it pointed to before."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.release.promote.command import STORE_HELP, add_move_options
from trainer.release.registry_options import add_registry_options, need_registry

if TYPE_CHECKING:
    from screening.checkpoint.registry import Registry, Version
    from trainer.release.promote.moves import History


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="roll back even if the history and the registry name different production versions",
    )
    add_move_options(parser, reason_needed=True)
    add_registry_options(parser, store=STORE_HELP)


def run(args: argparse.Namespace) -> int:
    from trainer.release.promote.moves import user_and_machine

    by = args.by or user_and_machine()
    print(rollback(need_registry(args), by=by, reason=args.reason, force=args.force, store=args.store))
    return 0


def rollback(registry: Registry, *, by: str, reason: str, force: bool = False, store: Path | None = None) -> str:
    """Point the alias `production` to the previous version, if its directory is still complete.

    Without `store`, a directory that cannot be read here is a warning: it may lie in a store that only services reach.

    Args:
        force: roll back although history and registry disagree about the version in production.
        store: the checkpoint store as this machine has it mounted; None looks where the publisher had it.

    Returns:
        A line for people.

    Raises:
        MoveError: no version is in production, none was before it, or that one was deleted or replaced; or history
            and registry disagree.
        CheckpointError: the directory of the previous version is incomplete, or is not in `store`.
        RegistryError: the registry does not answer.
    """
    from trainer.release.promote.moves import MoveError, move
    from trainer.release.promote.standing import read_standing

    standing = read_standing(registry)
    doubt = None if standing.interrupted else standing.doubt()
    if doubt and not force:
        raise MoveError(f"{doubt}. Production was not moved. With --force it goes back to the version before that")
    last = standing.history.last
    current = last.after if standing.alias is None and last else standing.alias
    if current is None:
        raise MoveError("no version is in production. `promote` makes the first one production")
    target = _before(registry, standing.history, current)
    _check(target, store)
    move(registry, standing.alias, target, "rollback", by=by, reason=reason, forced=bool(doubt))
    return f"production: version {current} → version {target.number}, rolled back"


def _before(registry: Registry, history: History, current: int) -> Version:
    """The version that was in production before `current`.

    Raises:
        MoveError: there was none, or it was deleted or replaced.
    """
    from trainer.release.promote.moves import MoveError, previous

    number = previous(history.moves, current)
    if number is None:
        raise MoveError(f"no version was in production before version {current}")
    target = registry.version(number)
    if target is None:
        raise MoveError(f"version {number}, which was in production before, was deleted. Promote another version")
    noted = {one.digest for one in history.moves if one.after == number}
    if noted and target.digest not in noted:
        raise MoveError(
            f"version {number} is {target.digest}, which is not the checkpoint that was in production: the "
            "model was registered again. Promote the version that you want"
        )
    return target


def _check(target: Version, store: Path | None) -> None:
    """Check the directory of the version that production goes back to.

    Raises:
        CheckpointError: it is incomplete, or is not in `store`.
    """
    from screening.errors import CheckpointUnavailable
    from trainer.release.promote.evidence import whole

    try:
        whole(target.in_store(store))
    except CheckpointUnavailable as error:
        if store is not None:
            raise
        print(
            f"warning: version {target.number} was not checked: {error}. Services check it before they load it. To "
            "check it here, give --store",
            file=sys.stderr,
        )
