"""Errors of an evaluation.

EvaluationError     it cannot start or continue; the message says what to do
└── Unfinished      it stopped before its end; the same command continues it
"""

from __future__ import annotations

from screening.errors import UserError


class EvaluationError(UserError):
    """An evaluation cannot start or continue."""


class Unfinished(EvaluationError):
    """The engine died, an endpoint did not answer, or a limit was reached. The answers so far are kept."""

    exit_status = 1
