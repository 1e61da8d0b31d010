"""The error of an annotation; those of its endpoint are in `trainer.endpoint.errors`."""

from __future__ import annotations

from screening.errors import UserError


class AnnotationError(UserError):
    """An annotation cannot start or go on; the message says what to do."""
