"""What is in production: by the alias, by the history, and whether the two agree.

The gate compares a candidate with the version in production. Where the alias names nothing, it has nothing to compare
with, and only the floors are left. That is right for the first version and wrong for every other, so the history has
the last word: if it knows of a production that the alias does not name, a person must look.
"""

from __future__ import annotations

from dataclasses import dataclass

from screening.checkpoint.registry import PRODUCTION, Registry, Version
from screening.errors import RegistryError
from trainer.release.promote.moves import History, Move, read_history


@dataclass(frozen=True, slots=True)
class Standing:
    """The alias `production`, its version and the history, read at one moment."""

    alias: int | None
    """Version that the alias names; None where there is no alias."""
    version: Version | None
    """That version; None where there is no alias, or where the registry has no such version."""
    fault: str | None
    """Why there is an alias and no version."""
    history: History

    @property
    def interrupted(self) -> bool:
        """Whether the last move was noted and the alias stayed, as after a kill."""
        return self.alias is not None and self.history.last is not None and self.alias == self.history.last.before

    def doubt(self, to: Version | None = None) -> str | None:
        """Why production is not certain enough to move it without `--force`; None where it is.

        A move to the very checkpoint that the history names restores production where the alias is gone, and finishes
        a move that was interrupted; neither needs force.
        """
        if self.fault:
            return self.fault
        if self.history.obscured:
            return (
                f"the history cannot be read: its newest note, the tag {self.history.obscured} of the registered "
                "model, is damaged or not from this version"
            )
        last = self.history.last
        if last and to and last.digest == to.digest and (self.alias is None or self.interrupted):
            return None
        return self.disagreement

    @property
    def disagreement(self) -> str | None:
        """Where history and registry name different productions: which ones."""
        last = self.history.last
        if last is None or (self.version and self.version.digest == last.digest):
            return None
        return f"{_told(last)}, but {self._found(last)}"

    def _found(self, last: Move) -> str:
        if self.version is None:
            return f"the registry has no production any more: the alias '{PRODUCTION}' or the version was deleted"
        if self.version.number == last.after:
            return f"version {last.after} is {self.version.digest} now: the model was deleted and registered again"
        return (
            f"the alias '{PRODUCTION}' names version {self.version.number}: it was moved by other means, or the last "
            "move was interrupted"
        )


def read_standing(registry: Registry) -> Standing:
    """Ask the registry what is in production.

    Raises:
        RegistryError: the registry does not answer.
    """
    alias, version, fault = registry.named(PRODUCTION), None, None
    if alias is not None:
        try:
            version = registry.version(alias)
        except RegistryError as error:  # the alias could be read, so this is about the version
            fault = str(error)
        else:
            fault = None if version else f"the alias '{PRODUCTION}' names version {alias}, which does not exist"
    return Standing(alias, version, fault, read_history(registry))


def _told(last: Move) -> str:
    return f"the history says that version {last.after} ({last.digest}) is in production since {last.at}"
