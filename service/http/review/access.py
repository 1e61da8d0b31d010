"""Who sends a request to `/review`, and whether that person is a lead."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from service.errors import InsufficientScope, Unauthenticated
from service.http.auth import LOCAL, authorize, has_scope, key_of


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person who reviews."""

    name: str
    is_lead: bool
    """Whether the person may make tasks, export labels and see results of gold questions."""


def reviewer_of(request: Request) -> Reviewer:
    """The person who sends a request. A lead has the scope `admin`, or is the only user of a machine without keys.

    The station names in `X-Reviewer` the person for whom it was opened. All tabs of a browser share one cookie, so
    another person may have signed in since then. That person has no lease of the first one, and a station that is told
    so (404) would take its tasks for erased.

    Raises:
        Unauthenticated: as `authorize`, or `X-Reviewer` names another person.
        InsufficientScope, Forbidden, CrossOrigin: as `authorize`.
    """
    name = authorize(request, "review")
    page = request.headers.get("x-reviewer", name)
    if page != name:
        raise Unauthenticated(f"You are signed in as {name} now, and this page belongs to {page}. Sign in again.")
    return Reviewer(name, is_lead=key_of(request) is LOCAL or has_scope(request, "admin"))


def lead_of(request: Request) -> Reviewer:
    """The person who sends a request, who must be a lead.

    Raises:
        InsufficientScope: the person is not a lead.
        Unauthenticated, Forbidden, CrossOrigin: as `reviewer_of`.
    """
    person = reviewer_of(request)
    if not person.is_lead:
        raise InsufficientScope(person.name, "admin")
    return person
