"""Errors of `collect`.

CollectError            the reviews or the service's answers cannot be used
├── NothingReviewed     no question has been reviewed yet
├── Unreachable         the service does not answer; the same command continues
└── ErasedMeanwhile     data were erased while they were collected
"""

from __future__ import annotations

from screening.errors import UserError


class CollectError(UserError):
    """The reviews cannot be collected; the message says why and what to do."""


class NothingReviewed(CollectError):
    """No question has been reviewed, or none that can be used."""


class Unreachable(CollectError):
    """The service does not answer, or answers with errors that may pass."""

    exit_status = 1
    advice = "The pictures so far are kept; run the same command again to continue."


class ErasedMeanwhile(CollectError):
    """A decision or an imported sample was erased while it was collected."""

    exit_status = 1
    advice = "Run the same command again."
