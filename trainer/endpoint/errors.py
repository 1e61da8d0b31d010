"""Errors of a request.

EndpointError           a request failed
├── Refused             the endpoint refuses this request; a retry would be refused too
├── Unanswered          no answer after all tries; a later run may succeed
└── EndpointUnusable    no request to this endpoint can succeed now (key, model name, credit, daily quota)
"""

from __future__ import annotations

from screening.errors import UserError


class EndpointError(UserError):
    """A request failed."""

    exit_status = 1
    advice = "Every answer so far is kept; run the same command again to continue."


class Refused(EndpointError):
    """The endpoint refuses this request because of its content (a 4xx status)."""


class Unanswered(EndpointError):
    """Every try ended in overload, a server error, a timeout or a broken connection."""


class EndpointUnusable(EndpointError):
    """The cause of the failure affects every request."""
