"""Errors of an evaluation.

EvaluationError     it cannot start or go on; the message says what to do
└── Unfinished      it stopped before its end; the same command goes on
"""

from __future__ import annotations

from screening.errors import UserError


class EvaluationError(UserError):
    """An evaluation cannot start or go on."""


class Unfinished(EvaluationError):
    """The engine died, an endpoint did not answer, or a limit was reached. What was answered is kept."""

    exit_status = 1
