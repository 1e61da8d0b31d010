"""`/review` for reviewers: leases and reviews. Exists only with `SCREENING_REVIEW=true`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from screening.task import OPTIONS
from service.errors import LeaseLost, LeaseNotFound, ReviewConflict, ReviewNotFound
from service.http.json_api import (
    BODY_ERRORS,
    MAX_BODY,
    SECURED,
    json_answer,
    read_json,
    refuse_unprintable,
    service_of,
    store_of,
    takes,
)
from service.http.openapi import PICTURE, problem_responses
from service.http.review.access import lead_of, reviewer_of
from service.http.review.bodies import (
    LeaseExtended,
    LeaseRequest,
    Leases,
    Review,
    ReviewRequest,
    Reviews,
    ReviewStored,
)
from service.http.review.common import COMMON, send_picture
from service.http.review.views import lease_shown, review_shown, stored_shown, submission_of
from service.review import leases, reviews
from service.schemas import MAX_COMMENT_BYTES

router = APIRouter(prefix="/review", tags=["review"])

_MAX_REVIEW = MAX_BODY + len(OPTIONS) * MAX_COMMENT_BYTES
"""Maximum size of a review in bytes: it has a comment on each picture, and one on the task."""

LeaseId = Annotated[str, Path(max_length=64, description="Id of the lease.")]
ReviewId = Annotated[str, Path(max_length=36, description="Id of the review.")]
PictureNumber = Annotated[int, Path(ge=0, le=len(OPTIONS), description="0 for the original, 1 to 4 as displayed.")]


@router.post(
    "/leases",
    response_model=Leases,
    responses=problem_responses(*COMMON, *BODY_ERRORS),
    openapi_extra=SECURED | takes(LeaseRequest),
    operation_id="lease_tasks",
    summary="Get tasks to work on",
    response_description="Up to `count` tasks.",
)
async def lease_tasks(request: Request) -> Response:
    person, store = reviewer_of(request), store_of(request)
    body = await read_json(request, LeaseRequest)
    lease = partial(leases.lease, store.database, person.name, count=body.count, job=body.job)
    found, waiting = await store.ask(lease)
    return json_answer(Leases(leases=[lease_shown(one) for one in found], waiting=waiting))


@router.get(
    "/leases/{lease}/pictures/{number}",
    response_class=Response,
    responses=problem_responses(*COMMON, LeaseNotFound, ReviewNotFound) | PICTURE,
    openapi_extra=SECURED,
    operation_id="get_leased_picture",
    summary="A picture of a leased task: 0 is the original, 1 to 4 are as displayed",
)
async def get_leased_picture(request: Request, lease: LeaseId, number: PictureNumber) -> Response:
    person, store = reviewer_of(request), store_of(request)
    refuse_unprintable(lease)
    found = await store.ask(partial(leases.picture_of, store.database, lease, person.name, number))
    return await send_picture(request, *found)


@router.post(
    "/leases/{lease}/heartbeat",
    response_model=LeaseExtended,
    responses=problem_responses(*COMMON, LeaseNotFound, LeaseLost),
    openapi_extra=SECURED,
    operation_id="extend_lease",
    summary="Extend a lease",
    response_description="The lease was extended.",
)
async def extend_lease(request: Request, lease: LeaseId) -> Response:
    person, store = reviewer_of(request), store_of(request)
    refuse_unprintable(lease)
    until = await store.ask(partial(leases.extend, store.database, lease, person.name))
    return json_answer(LeaseExtended(expires_at=until))


@router.delete(
    "/leases/{lease}",
    status_code=204,
    responses=problem_responses(*COMMON, LeaseNotFound),
    openapi_extra=SECURED,
    operation_id="skip_task",
    summary="Skip a task: others get it, and you do not get it for an hour",
    response_description="The lease has ended.",
    response_class=Response,
)
async def skip_task(request: Request, lease: LeaseId) -> Response:
    person, store = reviewer_of(request), store_of(request)
    refuse_unprintable(lease)
    await store.ask(partial(leases.skip, store.database, lease, person.name))
    return Response(status_code=204)


@router.post(
    "/reviews",
    response_model=ReviewStored,
    status_code=201,
    responses=problem_responses(*COMMON, *BODY_ERRORS, LeaseNotFound, ReviewConflict)
    | {200: {"description": "The same review was stored before.", "model": ReviewStored}},
    openapi_extra=SECURED | takes(ReviewRequest),
    operation_id="send_review",
    summary="Send a review",
    response_description="The review is stored.",
)
async def send_review(request: Request) -> Response:
    person, service, store = reviewer_of(request), service_of(request), store_of(request)
    body = await read_json(request, ReviewRequest, max_bytes=_MAX_REVIEW)
    refuse_unprintable(body.lease)
    stored, is_new = await store.ask(partial(reviews.submit, store.database, submission_of(body), person.name))
    if is_new:
        service.metrics.reviews.labels(stored.job).inc()
    return json_answer(stored_shown(stored), 201 if is_new else 200)


@router.get(
    "/reviews",
    response_model=Reviews,
    responses=problem_responses(*COMMON),
    openapi_extra=SECURED,
    operation_id="list_reviews",
    summary="Your last reviews, newest first",
    response_description="The reviews.",
)
async def list_reviews(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200, description="Maximum number of reviews.")] = 50,
    mine: Annotated[bool, Query(description="Whether only your own; false needs an admin key.")] = True,
) -> Response:
    person, store = reviewer_of(request) if mine else lead_of(request), store_of(request)
    found = await store.ask(partial(reviews.last, store.database, person.name if mine else None, limit))
    return json_answer(Reviews(reviews=[review_shown(one) for one in found]))


@router.get(
    "/reviews/{review}",
    response_model=Review,
    responses=problem_responses(*COMMON, ReviewNotFound),
    openapi_extra=SECURED,
    operation_id="get_review",
    summary="A review as its author saw the task",
    response_description="The review.",
)
async def get_review(request: Request, review: ReviewId) -> Response:
    person, store = reviewer_of(request), store_of(request)
    refuse_unprintable(review)
    author = None if person.is_lead else person.name
    return json_answer(review_shown(await store.ask(partial(reviews.one, store.database, review, author))))


@router.get(
    "/reviews/{review}/pictures/{number}",
    response_class=Response,
    responses=problem_responses(*COMMON, ReviewNotFound) | PICTURE,
    openapi_extra=SECURED,
    operation_id="get_reviewed_picture",
    summary="A picture of a review: 0 is the original, 1 to 4 are as displayed",
)
async def get_reviewed_picture(request: Request, review: ReviewId, number: PictureNumber) -> Response:
    person, store = reviewer_of(request), store_of(request)
    refuse_unprintable(review)
    author = None if person.is_lead else person.name
    found = await store.ask(partial(reviews.picture_of, store.database, review, author, number))
    return await send_picture(request, *found)
