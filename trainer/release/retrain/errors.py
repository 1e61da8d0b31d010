"""How a retraining ends other than well. Each class has the exit status of the command."""

from __future__ import annotations


class RetrainError(Exception):
    """A retraining cannot go on; the message says why and what to do."""

    status = 1
    """Exit status: 1, the same command goes on from here."""


class Busy(RetrainError):
    """Another run works for the same registry model."""


class Stale(RetrainError):
    """A later run has taken over; this one must not publish or promote."""


class BadInput(RetrainError):
    """Configuration, data, recipe or checkpoint cannot be used; a repetition would fail in the same way."""

    status = 2


class RegistryTrouble(RetrainError):
    """The registry does not answer, or contradicts its own history."""

    status = 3


class Unconfirmed(RetrainError):
    """The model is promoted, and at least one service does not serve it in time."""

    status = 4
