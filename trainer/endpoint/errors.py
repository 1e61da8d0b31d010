"""Errors of a request.

EndpointError           a request came to nothing
├── Refused             the endpoint refuses this request; asking again changes nothing
├── Unanswered          no answer after all tries; asking later may help
└── EndpointUnusable    no request to this endpoint can succeed now (key, model name, credit, daily quota)
"""

from __future__ import annotations

from screening.errors import UserError


class EndpointError(UserError):
    """A request has no usable answer."""

    exit_status = 1
    advice = "Every answer so far is kept; run the same command again to continue."


class Refused(EndpointError):
    """The endpoint refuses this request (a 4xx that is about its content)."""


class Unanswered(EndpointError):
    """Overload, server errors, timeouts or broken connections until the last try."""


class EndpointUnusable(EndpointError):
    """What failed would fail for every request."""
