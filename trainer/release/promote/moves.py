"""The alias `production` and its history: every move is noted on the registered model, and no note is ever changed.

A note is written before the alias moves, under a key of its own, so that a kill loses no move and two promoters at the
same moment lose none of the other's. The notes are the history; the alias is what services follow.
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
from trainer.evaluation.evaluate.result import now

_PREFIX = "move."
REASON_LENGTH = 1000
"""Characters of a reason, at most: MLflow's table holds 5,000 for the whole note."""


class MoveError(Exception):
    """The alias is not moved; the message says why and what to do."""


class GateResult(BaseModel):
    """What a move remembers of its gate; the whole table is in the directory that `promote` wrote."""

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
    """Version that was in production; None for the first."""
    after: int
    digest: str
    """Of `after`."""
    gate: GateResult | None
    """None where nothing was measured: a roll-back, or a forced move without a test set."""


@dataclass(frozen=True, slots=True)
class History:
    """The notes of all moves."""

    moves: tuple[Move, ...]
    """Oldest first."""
    unreadable: tuple[str, ...] = ()
    """Keys of notes that this version of the trainer does not understand."""
    obscured: str | None = None
    """Key of the newest note where it cannot be read, so that the last move is not known."""

    @property
    def last(self) -> Move | None:
        return self.moves[-1] if self.moves else None

    @property
    def next_number(self) -> int:
        return max((one.number for one in self.moves), default=0) + len(self.unreadable) + 1


def read_history(registry: Registry) -> History:
    """All moves, and the notes that are not understood.

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
    """Note the move and let the alias `production` name another version.

    Args:
        expected: the version that was in production when the move was decided; if it is not any more, nothing moves.
        guard: called right before the alias moves; raises where the caller must not move it any more.

    Raises:
        MoveError: production has moved meanwhile.
        RegistryError: the registry does not answer; noted or not, the same command can be given again.
    """
    with registry.alone():
        current = registry.named(PRODUCTION)
        if current != expected:
            raise MoveError(
                f"production moved from {_name(expected)} to {_name(current)} meanwhile; see `history`, and try again"
            )
        made = Move(
            number=read_history(registry).next_number,
            kind=kind,
            at=now(),
            by=by,
            reason=reason,
            forced=forced,
            before=expected,
            after=to.number,
            digest=to.digest,
            gate=gate,
        )
        guard()
        # The random part: on a database server two moves may get the same number.
        registry.note(f"{_PREFIX}{made.number:06d}.{secrets.token_hex(4)}", made.model_dump_json())
        registry.point(PRODUCTION, to.number)
    return made


def previous(moves: Sequence[Move], current: int) -> int | None:
    """The version that a roll-back from `current` leads to: what was in production before it, roll-backs undone.

    Where the alias was moved by hand, or a move was noted and killed, what is in production counts and not the notes.
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
    """Back to where the version was last, or on to one that was never seen."""
    while number in stack and stack[-1] != number:
        stack.pop()
    if number not in stack:
        stack.append(number)


def whoever() -> str:
    """User and machine, where nobody says who moves."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _name(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
