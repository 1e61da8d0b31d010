"""Why a domain cannot be described."""

from __future__ import annotations


class DomainFitError(ValueError):
    """The data do not suffice, or the engine gives no features; the message says which."""
