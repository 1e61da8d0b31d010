"""The error of an annotation. Errors of the endpoint are in `trainer.endpoint.errors`."""

from __future__ import annotations

from screening.errors import UserError


class AnnotationError(UserError):
    """An annotation cannot start or continue; the message says what to do."""
