"""Moves the alias `production` and notes every move on the registered model. A note is never changed.

Each note is written before the alias moves, under its own key. So a kill loses no move, and two people who promote at
the same moment lose neither note. The notes are the history; the alias is what services follow.
"""

from __future__ import annotations

import getpass
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.checkpoint.registry import PRODUCTION, Registry, Version
from screening.errors import UserError
from screening.runtime.utc_time import utc_now_text

_PREFIX = "move."
REASON_LENGTH = 1000
"""Maximum length of a reason in characters. MLflow's table holds 5,000 for the whole note."""


class MoveError(UserError):
    """The alias was not moved; the message says why and what to do."""


class GateResult(BaseModel):
    """Summary of the gate that a move passed; the whole table is in the directory that `promote` wrote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    passed: bool
    mode: str
    data: str
    """Digest of the test set."""
    criteria: int
    failed: tuple[str, ...]
    report: str
    """Directory with the table and the flips."""


class Move(BaseModel):
    """One move of the alias."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    kind: Literal["promote", "rollback"]
    at: str
    """UTC, ISO 8601."""
    by: str
    reason: str | None
    forced: bool
    before: int | None
    """Version that was in production; None for the first move."""
    after: int
    digest: str
    """Digest of the checkpoint of version `after`."""
    gate: GateResult | None
    """None if nothing was measured: a rollback, or a forced move without a test set."""


@dataclass(frozen=True, slots=True)
class History:
    """The notes of all moves."""

    moves: tuple[Move, ...]
    """Oldest first."""
    unreadable: tuple[str, ...] = ()
    """Keys of notes that this version of the trainer cannot read."""
    obscured: str | None = None
    """Key of the newest note if it cannot be read, so that the last move is unknown."""

    @property
    def last(self) -> Move | None:
        return self.moves[-1] if self.moves else None

    @property
    def next_number(self) -> int:
        return max((one.number for one in self.moves), default=0) + len(self.unreadable) + 1


def read_history(registry: Registry) -> History:
    """Read all moves, and the keys of the notes that cannot be read.

    Raises:
        RegistryError: the registry does not answer.
    """
    notes = {key: value for key, value in registry.notes().items() if key.startswith(_PREFIX)}
    moves, unreadable = [], []
    for key in sorted(notes):
        try:
            moves.append(Move.model_validate_json(notes[key]))
        except ValidationError:
            unreadable.append(key)
    newest = max(notes, default=None)
    return History(tuple(moves), tuple(unreadable), newest if newest in unreadable else None)


def move(
    registry: Registry,
    expected: int | None,
    to: Version,
    kind: Literal["promote", "rollback"],
    *,
    by: str,
    reason: str | None,
    forced: bool = False,
    gate: GateResult | None = None,
    guard: Callable[[], None] = lambda: None,
) -> Move:
    """Note the move and point the alias `production` to another version.

    Args:
        expected: the version that was in production when the move was decided.
        guard: called immediately before the alias moves; it raises if the caller must not move the alias any more.

    Raises:
        MoveError: another version is in production now. The alias was not moved.
        RegistryError: the registry does not answer. The same command can be run again, whether the move was noted or
            not.
    """
    with registry.alone():
        current = registry.named(PRODUCTION)
        if current != expected:
            raise MoveError(
                f"production moved from {_name(expected)} to {_name(current)} meanwhile. See `history`, and try again"
            )
        made = Move(
            number=read_history(registry).next_number,
            kind=kind,
            at=utc_now_text(),
            by=by,
            reason=reason,
            forced=forced,
            before=expected,
            after=to.number,
            digest=to.digest,
            gate=gate,
        )
        guard()
        # The key has a random part because two moves may get the same number on a database server.
        registry.note(f"{_PREFIX}{made.number:06d}.{secrets.token_hex(4)}", made.model_dump_json())
        registry.point(PRODUCTION, to.number)
    return made


def previous(moves: Sequence[Move], current: int) -> int | None:
    """The version that a rollback from `current` returns to: the one that was promoted before it.

    A rollback in the history undoes the promotions after its target. If the alias was moved by hand, or a kill
    interrupted a move, the version in production counts and not the last note.
    """
    stack: list[int] = []
    for one in moves:
        if one.before is not None:
            _go_to(stack, one.before)
        if one.kind == "rollback":
            _go_to(stack, one.after)
        else:
            stack.append(one.after)
    _go_to(stack, current)
    return next((number for number in reversed(stack) if number != current), None)


def _go_to(stack: list[int], number: int) -> None:
    """Shorten the stack to the place where the version was last, or append a version that is not in it."""
    while number in stack and stack[-1] != number:
        stack.pop()
    if number not in stack:
        stack.append(number)


def user_and_machine() -> str:
    """Who moves the alias if `--by` does not say it: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _name(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
