"""Finds the version in production, and checks that the alias and the history agree about it.

The gate compares a candidate with the version in production. Without an alias there is nothing to compare with, and
only the floors remain. That is right for the first version and wrong for every later one. So where the history names
a production version that the alias does not point to, `promote` refuses and a person must look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from screening.checkpoint.registry import PRODUCTION, Registry, Version
from screening.errors import RegistryError
from trainer.release.promote.moves import History, Move, read_history


@dataclass(frozen=True, slots=True)
class Standing:
    """The alias `production`, its version and the history, read at one moment."""

    alias: int | None
    """Number of the version that the alias points to; None if the alias does not exist."""
    version: Version | None
    """That version; None if the alias does not exist or the registry has lost the version."""
    fault: str | None
    """Why the alias exists but its version does not."""
    history: History

    @property
    def interrupted(self) -> bool:
        """Whether the last move was noted but the alias did not move, as after a kill."""
        return self.alias is not None and self.history.last is not None and self.alias == self.history.last.before

    def doubt(self, to: Version | None = None) -> str | None:
        """Why the production version is too uncertain to move it without `--force`; None if it is certain.

        A move to the checkpoint that the history names restores a deleted alias or finishes an interrupted move.
        Neither needs `--force`.
        """
        if self.fault:
            return self.fault
        if self.history.obscured:
            return (
                f"the history cannot be read: its newest note, the tag {self.history.obscured} of the registered "
                "model, is damaged or was written by another version of the trainer"
            )
        last = self.history.last
        if last and to and last.digest == to.digest and (self.alias is None or self.interrupted):
            return None
        return self.disagreement

    @property
    def disagreement(self) -> str | None:
        """Which production versions the history and the registry name, if they differ; else None."""
        last = self.history.last
        if last is None or (self.version and self.version.digest == last.digest):
            return None
        return f"{_told(last)}, but {self._found(last)}"

    def _found(self, last: Move) -> str:
        if self.version is None:
            return f"the registry has no production version: the alias '{PRODUCTION}' or the version was deleted"
        if self.version.number == last.after:
            return f"version {last.after} is now {self.version.digest}: the model was deleted and registered again"
        return (
            f"the alias '{PRODUCTION}' points to version {self.version.number}: another tool moved it, or the last "
            "move was interrupted"
        )


def read_standing(registry: Registry, store: Path | None = None) -> Standing:
    """Ask the registry which version is in production.

    Args:
        store: the checkpoint store as this machine has it mounted; None keeps the publisher's path.

    Raises:
        RegistryError: the registry does not answer.
    """
    alias, version, fault = registry.named(PRODUCTION), None, None
    if alias is not None:
        try:
            version = registry.version(alias)
        except RegistryError as error:  # the alias could be read, so the error is about the version
            fault = str(error)
        else:
            fault = None if version else f"the alias '{PRODUCTION}' points to version {alias}, which does not exist"
    return Standing(alias, version and version.in_store(store), fault, read_history(registry))


def _told(last: Move) -> str:
    return f"the history says that version {last.after} ({last.digest}) has been in production since {last.at}"
