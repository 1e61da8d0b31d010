"""The pages of `/review` for people, and the files of the review station."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, time
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from service.errors import Unauthenticated
from service.http.json_api import store_of
from service.http.review.access import Reviewer, reviewer_of
from service.http.session_token import COOKIE
from service.review import leases, reviews, statistics
from service.review.shown import is_right, number_of
from service.review_page import pages

router = APIRouter(prefix="/review", include_in_schema=False)

_LISTED = 30
"""Number of reviews on the overview."""
Day = Annotated[date | Literal[""] | None, Query()]
"""A day as a form sends it: empty if the person chose none."""


class _Files(StaticFiles):
    """The station's files. Browsers ask each time whether a file has changed, so that an update reaches everyone."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def add_review_pages(app: Starlette) -> None:
    """Add the pages and the static files to the app."""
    app.router.routes.extend(router.routes)
    app.router.routes.append(Mount("/review/static", _Files(directory=pages.STATIC)))


@router.get("")
async def get_overview(request: Request) -> Response:
    """What waits, and the person's last reviews."""
    person = _person(request)
    if person is None:
        return _to("review/sign-in")
    store = store_of(request)
    queue = await store.ask(partial(statistics.queue, store.database, by_reason=person.is_lead))
    waiting = {
        job: await store.ask(partial(leases.waiting, store.database, person.name, job)) for job in ("review", "label")
    }
    last = await store.ask(partial(reviews.last, store.database, person.name, _LISTED))
    rows = {reason: asdict(row) for reason, row in queue.items()}
    return _page(pages.overview_page(_visitor(request, person), waiting, rows, [_listed(one) for one in last]))


@router.get("/station")
async def get_station(request: Request, job: Literal["review", "label"] | None = None) -> Response:
    """The review station; its script asks for tasks."""
    person = _person(request)
    return _to("sign-in") if person is None else _page(pages.station_page(_visitor(request, person), job))


@router.get("/statistics")
async def get_statistics(request: Request, since: Day = None, until: Day = None) -> Response:
    """Statistics of a period."""
    person = _person(request)
    if person is None:
        return _to("sign-in")
    store = store_of(request)
    begin, end = _midnight(since), _midnight(until)
    found = await store.ask(partial(statistics.report, store.database, begin, end, for_lead=person.is_lead))
    return _page(pages.statistics_page(_visitor(request, person), found, str(since or ""), str(until or "")))


@router.get("/sign-in")
async def get_sign_in() -> Response:
    """The form for the key."""
    return _page(pages.sign_in_page())


def _person(request: Request) -> Reviewer | None:
    """The person who looks at a page, or None if the person must sign in first."""
    try:
        return reviewer_of(request)
    except Unauthenticated:
        return None


def _visitor(request: Request, person: Reviewer) -> pages.Visitor:
    return pages.Visitor(person.name, signed_in=COOKIE in request.cookies)


def _listed(one: reviews.Stored) -> pages.ListedReview:
    order = one.review.display_order
    return pages.ListedReview(
        id=one.review.id,
        at=one.review.at,
        usable=sorted(number_of(order, letter) for letter in one.letters if letter in order),
        agrees=None if one.answer is None else is_right(one.answer["choice"], one.letters),
        corrects=one.review.supersedes is not None,
        superseded=one.superseded,
        late=one.review.late,
    )


def _midnight(day: date | Literal[""] | None) -> datetime | None:
    return datetime.combine(day, time(), UTC) if day else None


def _to(path: str) -> Response:
    """Redirect. The path is relative, so that the request's Host header cannot influence it."""
    return Response(status_code=303, headers={"Location": path, "Cache-Control": "no-store"})


def _page(text: str) -> Response:
    return HTMLResponse(text, headers=pages.HEADERS)
