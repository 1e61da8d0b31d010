"""Errors of `trainer domain`."""

from __future__ import annotations


class DomainFitError(ValueError):
    """There are too few data, or the engine gives no features; the message says which."""
