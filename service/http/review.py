"""`/review`: tasks for people, what they submit, statistics and export. Exists only with `SCREENING_REVIEW=true`."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from screening.task import DIMENSIONS, OPTIONS
from service.admission.upload import Upload
from service.errors import (
    BodyTimeout,
    DecisionsUnavailable,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    LeaseNotFound,
    MalformedRequest,
    RequestTooLarge,
    ReviewConflict,
    ReviewNotFound,
    Unauthenticated,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.moments import Moment
from service.http.openapi import problem_responses
from service.http.review_access import COOKIE, check_sign_in, lead_of, reviewer_of, service_of, store_of
from service.http.review_bodies import (
    DimensionShown,
    ExportItem,
    ExportNoted,
    ExportOrder,
    ExportPage,
    LeaseExtended,
    LeaseOrder,
    Leases,
    LeaseShown,
    ModelPicture,
    ModelShown,
    NumberedPicture,
    PictureShown,
    ReviewOrder,
    Reviews,
    ReviewShown,
    ReviewStored,
    SessionOrder,
    Statistics,
    TasksMade,
    TasksOrder,
    VerdictShown,
)
from service.request.json_body import utf8_of
from service.request.request_body import read_body
from service.review import export, leases, reviews, sessions, statistics, tasks
from service.review.consensus import Verdict
from service.review.shown import is_right, model_answer, number_of

router = APIRouter(prefix="/review", tags=["review"])

_MAX_BODY = 64 * 2**10
_MAX_EXPORT = 64 * 2**20
_SECURED: dict[str, Any] = {"security": [{"key": []}]}
_COMMON = (Unauthenticated, Forbidden, InvalidRequest, DecisionsUnavailable)
_BODY = (MalformedRequest, BodyTimeout, UploadTooSlow, RequestTooLarge, UnsupportedMediaType)

LeaseId = Annotated[str, Path(max_length=64, description="Id of the lease.")]
ReviewId = Annotated[str, Path(max_length=36, description="Id of the review.")]
PictureNumber = Annotated[int, Path(ge=0, le=len(OPTIONS), description="0 for the original, 1 to 4 as displayed.")]
Model = TypeVar("Model", bound=BaseModel)


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "/session",
    status_code=204,
    responses=problem_responses(*_COMMON, *_BODY),
    openapi_extra=_takes(SessionOrder),
    operation_id="begin_review_session",
    summary="Exchange a key for a session cookie",
    response_description="The session begins.",
    response_class=Response,
)
async def begin_session(request: Request) -> Response:
    order = await _order(request, SessionOrder)
    store, key = store_of(request), check_sign_in(request, order.key)
    token = await store.ask(partial(sessions.begin, store.database, key))
    answer = Response(status_code=204)
    answer.set_cookie(
        COOKIE, token, max_age=sessions.HOURS * 3600, path="/", httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


@router.delete(
    "/session",
    status_code=204,
    responses=problem_responses(*_COMMON),
    openapi_extra=_SECURED,
    operation_id="end_review_session",
    summary="End the session",
    response_description="The session has ended.",
    response_class=Response,
)
async def end_session(request: Request) -> Response:
    await reviewer_of(request)
    if (token := request.cookies.get(COOKIE)) is not None:
        await store_of(request).ask(partial(sessions.end, store_of(request).database, token))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/")
    return answer


@router.post(
    "/leases",
    response_model=Leases,
    responses=problem_responses(*_COMMON, *_BODY),
    openapi_extra=_SECURED | _takes(LeaseOrder),
    operation_id="lease_tasks",
    summary="Get tasks to work on",
    response_description="Up to `count` tasks.",
)
async def lease_tasks(request: Request) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    order = await _order(request, LeaseOrder)
    lease = partial(leases.lease, store.database, person.name, count=order.count, job=order.job)
    found, waiting = await store.ask(lease)
    return _json(Leases(leases=[_lease(one) for one in found], waiting=waiting))


@router.get(
    "/leases/{lease}/pictures/{number}",
    response_class=Response,
    responses=problem_responses(*_COMMON, LeaseNotFound, ReviewNotFound)
    | {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}},
    openapi_extra=_SECURED,
    operation_id="get_leased_picture",
    summary="A picture of a leased task: 0 is the original, 1 to 4 are as displayed",
)
async def get_leased_picture(request: Request, lease: LeaseId, number: PictureNumber) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    _refuse_unprintable(lease)
    found = await store.ask(partial(leases.picture_of, store.database, lease, person.name, number))
    return await _picture(request, *found)


@router.post(
    "/leases/{lease}/heartbeat",
    response_model=LeaseExtended,
    responses=problem_responses(*_COMMON, LeaseNotFound, LeaseLost),
    openapi_extra=_SECURED,
    operation_id="extend_lease",
    summary="Extend a lease",
    response_description="The lease goes on.",
)
async def extend_lease(request: Request, lease: LeaseId) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    _refuse_unprintable(lease)
    until = await store.ask(partial(leases.extend, store.database, lease, person.name))
    return _json(LeaseExtended(expires_at=until))


@router.delete(
    "/leases/{lease}",
    status_code=204,
    responses=problem_responses(*_COMMON, LeaseNotFound),
    openapi_extra=_SECURED,
    operation_id="skip_task",
    summary="Skip a task: others get it, and you do not get it for an hour",
    response_description="The lease has ended.",
    response_class=Response,
)
async def skip_task(request: Request, lease: LeaseId) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    _refuse_unprintable(lease)
    await store.ask(partial(leases.skip, store.database, lease, person.name))
    return Response(status_code=204)


@router.post(
    "/reviews",
    response_model=ReviewStored,
    status_code=201,
    responses=problem_responses(*_COMMON, *_BODY, LeaseNotFound, ReviewConflict)
    | {200: {"description": "The same review was stored before.", "model": ReviewStored}},
    openapi_extra=_SECURED | _takes(ReviewOrder),
    operation_id="send_review",
    summary="Send a review",
    response_description="The review is stored.",
)
async def send_review(request: Request) -> Response:
    person, service, store = await reviewer_of(request), service_of(request), store_of(request)
    order = await _order(request, ReviewOrder)
    _refuse_unprintable(order.lease)
    stored, is_new = await store.ask(partial(reviews.submit, store.database, _submission(order), person.name))
    if is_new:
        service.metrics.reviews.labels(stored.job).inc()
    return _json(_stored(stored), 201 if is_new else 200)


@router.get(
    "/reviews",
    response_model=Reviews,
    responses=problem_responses(*_COMMON),
    openapi_extra=_SECURED,
    operation_id="list_reviews",
    summary="Your last reviews, newest first",
    response_description="The reviews.",
)
async def list_reviews(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200, description="Maximum number of reviews.")] = 50,
    mine: Annotated[bool, Query(description="Whether only your own; false needs an admin key.")] = True,
) -> Response:
    person, store = await (reviewer_of(request) if mine else lead_of(request)), store_of(request)
    found = await store.ask(partial(reviews.last, store.database, person.name if mine else None, limit))
    return _json(Reviews(reviews=[_review(one) for one in found]))


@router.get(
    "/reviews/{review}",
    response_model=ReviewShown,
    responses=problem_responses(*_COMMON, ReviewNotFound),
    openapi_extra=_SECURED,
    operation_id="get_review",
    summary="A review as its author saw the task",
    response_description="The review.",
)
async def get_review(request: Request, review: ReviewId) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    _refuse_unprintable(review)
    author = None if person.is_lead else person.name
    return _json(_review(await store.ask(partial(reviews.one, store.database, review, author))))


@router.get(
    "/reviews/{review}/pictures/{number}",
    response_class=Response,
    responses=problem_responses(*_COMMON, ReviewNotFound)
    | {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}},
    openapi_extra=_SECURED,
    operation_id="get_reviewed_picture",
    summary="A picture of a review: 0 is the original, 1 to 4 are as displayed",
)
async def get_reviewed_picture(request: Request, review: ReviewId, number: PictureNumber) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    _refuse_unprintable(review)
    author = None if person.is_lead else person.name
    found = await store.ask(partial(reviews.picture_of, store.database, review, author, number))
    return await _picture(request, *found)


@router.get(
    "/stats",
    response_model=Statistics,
    responses=problem_responses(*_COMMON),
    openapi_extra=_SECURED,
    operation_id="review_statistics",
    summary="Queue, throughput, agreement and the model's accuracy",
    description="With an admin key also the reasons of the queue and the results of gold questions.",
    response_description="The statistics.",
)
async def review_statistics(
    request: Request,
    since: Annotated[Moment | None, Query(description="Earliest time of a review.")] = None,
    until: Annotated[Moment | None, Query(description="Time before which a review was sent.")] = None,
) -> Response:
    person, store = await reviewer_of(request), store_of(request)
    found = await store.ask(partial(statistics.report, store.database, since, until, for_lead=person.is_lead))
    return _json(Statistics.model_validate(found))


@router.post(
    "/tasks",
    response_model=TasksMade,
    status_code=201,
    responses=problem_responses(*_COMMON, *_BODY),
    openapi_extra=_SECURED | _takes(TasksOrder),
    operation_id="make_tasks",
    summary="Make tasks from kept decisions, by quota",
    description="Needs an admin key.",
    response_description="The tasks are in the queue.",
)
async def make_tasks(request: Request) -> Response:
    person, store = await lead_of(request), store_of(request)
    order = await _order(request, TasksOrder)
    made = await store.ask(
        partial(
            tasks.make_tasks,
            store.database,
            caller=person.name,
            count=order.count,
            since=order.since,
            until=order.until,
            seed=order.seed,
            reviews=order.reviews,
        )
    )
    return _json(TasksMade(made=made), 201)


@router.get(
    "/export",
    response_model=ExportPage,
    responses=problem_responses(*_COMMON),
    openapi_extra=_SECURED,
    operation_id="export_labels",
    summary="Decided labels, in the order of their tasks",
    description="Needs an admin key.",
    response_description="One page.",
)
async def export_labels(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500, description="Labels per page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the previous page.")] = None,
) -> Response:
    await lead_of(request)
    store = store_of(request)
    _refuse_unprintable(cursor)
    found = await store.ask(partial(export.page, store.database, after=cursor, limit=limit + 1))
    items = [ExportItem.model_validate(one) for one in found[:limit]]
    return _json(ExportPage(items=items, next=items[-1].task if len(found) > limit else None))


@router.get(
    "/export/pictures/{sha256}",
    response_class=Response,
    responses=problem_responses(*_COMMON, ReviewNotFound)
    | {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}},
    openapi_extra=_SECURED,
    operation_id="export_picture",
    summary="A picture of a label",
    description="Needs an admin key.",
)
async def export_picture(
    request: Request, sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of its bytes.")]
) -> Response:
    await lead_of(request)
    store = store_of(request)
    media_type = await store.ask(partial(export.picture, store.database, sha256))
    if media_type is None:
        raise ReviewNotFound("No task has this picture. It may have been erased.")
    return await _picture(request, sha256, media_type)


@router.post(
    "/exports",
    response_model=ExportNoted,
    status_code=201,
    responses=problem_responses(*_COMMON, *_BODY, ReviewConflict),
    openapi_extra=_SECURED | _takes(ExportOrder),
    operation_id="note_export",
    summary="Record a snapshot, so that an erasure can name it",
    description="Needs an admin key. Refused if one of the tasks was erased meanwhile.",
    response_description="The snapshot is recorded.",
)
async def note_export(request: Request) -> Response:
    person, store = await lead_of(request), store_of(request)
    order = await _order(request, ExportOrder, max_bytes=_MAX_EXPORT)
    note = partial(export.note, store.database, caller=person.name, digest=order.digest, tasks=order.tasks)
    return _json(ExportNoted(id=await store.ask(note)), 201)


async def _order(request: Request, model: type[Model], *, max_bytes: int = _MAX_BODY) -> Model:
    body = await read_body(request, max_bytes=max_bytes, upload=Upload(service_of(request).settings.upload_pace))
    try:
        return model.model_validate_json(bytes(utf8_of(body)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedRequest(f"Send JSON with these fields: {', '.join(model.model_fields)}.") from None
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from None


async def _picture(request: Request, sha256: str, media_type: str) -> Response:
    store = store_of(request)
    data = await store.ask(partial(store.pictures.get, sha256))
    if data is None:
        raise ReviewNotFound("The picture is not in the picture store. It may have been erased.")
    headers = {
        "Cache-Control": f"private, max-age={int(leases.LEASE.total_seconds())}, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, headers=headers, media_type=media_type)


def _dimensions() -> list[DimensionShown]:
    return [DimensionShown(name=one.value, title=one.title, meaning=one.meaning) for one in DIMENSIONS]


def _lease(one: leases.Lease) -> LeaseShown:
    original, pictures = _pictures(f"/review/leases/{one.id}", one.pictures, one.display_order)
    return LeaseShown(
        lease=one.id,
        job=one.job,
        expires_at=one.until,
        seconds=max(0, round((one.until - datetime.now(UTC)).total_seconds())),
        dimensions=_dimensions(),
        original=original,
        pictures=pictures,
    )


def _pictures(prefix: str, rows: Any, order: str) -> tuple[PictureShown, list[NumberedPicture]]:
    sizes = {row.position: row.bytes for row in rows}
    numbered = [
        NumberedPicture(number=number, url=f"{prefix}/pictures/{number}", bytes=sizes[OPTIONS.index(letter) + 1])
        for number, letter in enumerate(order, 1)
    ]
    return PictureShown(url=f"{prefix}/pictures/0", bytes=sizes[0]), numbered


def _submission(order: ReviewOrder) -> reviews.Submission:
    by_number = {one.number: one for one in order.verdicts}
    verdicts = tuple(
        Verdict(one.usable, {name.value: severity for name, severity in one.dimensions.items()}, one.comment)
        for _, one in sorted(by_number.items())
    )
    return reviews.Submission(
        id=str(order.id),
        lease=order.lease,
        verdicts=verdicts,
        best=order.best,
        comment=order.comment,
        active_seconds=order.active_seconds,
        supersedes=None if order.supersedes is None else str(order.supersedes),
    )


def _stored(one: reviews.Stored) -> ReviewStored:
    order = one.review.display_order
    model, agrees = None, None
    if one.answer is not None:
        shown = model_answer(one.answer, order)
        pictures = [ModelPicture.model_validate(picture) for picture in shown.pictures]
        model = ModelShown(
            choice=shown.choice,
            acceptable=shown.acceptable,
            confidence=shown.confidence,
            needs_review=shown.needs_review,
            pictures=pictures,
            reasoning=shown.reasoning,
        )
        agrees = is_right(one.answer["choice"], one.letters)
    return ReviewStored(id=one.review.id, late=one.review.late, letters=order, model=model, agrees=agrees)


def _review(one: reviews.Stored) -> ReviewShown:
    row, order = one.review, one.review.display_order
    original, pictures = _pictures(f"/review/reviews/{row.id}", one.pictures, order)
    verdicts = [
        VerdictShown(number=number, usable=verdict.usable, dimensions=verdict.dimensions, comment=verdict.comment)
        for number, verdict in enumerate((one.verdicts[OPTIONS.index(letter)] for letter in order), 1)
    ]
    return ReviewShown(
        **_stored(one).model_dump(),
        lease=row.lease,
        job=one.job,
        reviewer=row.reviewer,
        at=row.at,
        blind=row.blind,
        supersedes=row.supersedes,
        superseded=one.superseded,
        active_seconds=row.active_seconds,
        verdicts=verdicts,
        best=None if row.best is None else number_of(order, row.best),
        comment=row.comment,
        dimensions=_dimensions(),
        original=original,
        pictures=pictures,
    )


def _refuse_unprintable(*texts: str | None) -> None:
    """Refuse characters that databases do not store: no id can contain them."""
    if not all(text is None or text.isprintable() for text in texts):
        raise InvalidRequest("A parameter has characters that cannot be printed.")


def _json(body: BaseModel, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
