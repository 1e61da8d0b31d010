"""Errors of `trainer domain`."""

from __future__ import annotations

from screening.errors import UserError


class DomainFitError(UserError, ValueError):
    """There are too few data, or the engine gives no features; the message says which."""
