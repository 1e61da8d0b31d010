"""The error of an annotation; those of its endpoint are in `trainer.endpoint.errors`."""

from __future__ import annotations


class AnnotationError(Exception):
    """An annotation cannot start or go on; the message says what to do."""
