"""Why a domain cannot be described."""

from __future__ import annotations

from screening.errors import UserError


class DomainFitError(UserError, ValueError):
    """The data do not suffice, or the engine gives no features; the message says which."""
