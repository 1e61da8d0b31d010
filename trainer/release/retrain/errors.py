"""Errors of a retraining. Each class has the exit status of the command."""

from __future__ import annotations

from screening.errors import UserError

NO_START = "nothing is in production; set training.base to the checkpoint that training starts from"


class RetrainError(UserError):
    """The retraining cannot continue; the message says why and what to do."""

    exit_status = 1
    """1: the same command continues from here."""


class Busy(RetrainError):
    """Another run for the same registry model is active."""


class Stale(RetrainError):
    """A later run has taken over; this one must not publish or promote."""


class BadInput(RetrainError):
    """Configuration, data, recipe or checkpoint cannot be used; a retry would fail in the same way."""

    exit_status = 2


class RegistryTrouble(RetrainError):
    """The registry does not answer, or contradicts its own history."""

    exit_status = 3


class Unconfirmed(RetrainError):
    """The model is promoted, but at least one service does not serve it in time."""

    exit_status = 4
