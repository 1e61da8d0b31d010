"""Errors of an annotation.

AnnotationError             it cannot start or go on; the message says what to do
└── EndpointError           a request to the teacher came to nothing
    ├── Refused             the endpoint refuses this request; asking again changes nothing
    ├── Unanswered          no answer after all tries; asking later may help
    └── EndpointUnusable    no request to this endpoint can succeed now (key, model name, credit, daily quota)
"""

from __future__ import annotations


class AnnotationError(Exception):
    """An annotation cannot start or go on."""


class EndpointError(AnnotationError):
    """A request to the teacher came to nothing."""


class Refused(EndpointError):
    """The endpoint refuses this request (a 4xx that is about its content)."""


class Unanswered(EndpointError):
    """Overload, server errors, timeouts or broken connections until the last try."""


class EndpointUnusable(EndpointError):
    """What failed would fail for every request."""
