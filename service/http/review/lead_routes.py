"""`/review` for leads: making tasks, and the export of labels; and the statistics, of which reviewers see a part."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from service.errors import ReviewConflict, ReviewNotFound
from service.http.json_api import BODY_ERRORS, SECURED, json_answer, read_json, refuse_unprintable, store_of, takes
from service.http.moments import Moment
from service.http.openapi import PICTURE, problem_responses
from service.http.review.access import lead_of, reviewer_of
from service.http.review.common import COMMON, send_picture
from service.http.review.lead_bodies import (
    ExportItem,
    ExportNoted,
    ExportPage,
    ExportRequest,
    Statistics,
    TasksMade,
    TasksRequest,
)
from service.review import export, statistics, tasks

router = APIRouter(prefix="/review", tags=["review"])

_MAX_EXPORT = 64 * 2**20


@router.get(
    "/stats",
    response_model=Statistics,
    responses=problem_responses(*COMMON),
    openapi_extra=SECURED,
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
    person, store = reviewer_of(request), store_of(request)
    found = await store.ask(partial(statistics.report, store.database, since, until, for_lead=person.is_lead))
    return json_answer(Statistics.model_validate(found))


@router.post(
    "/tasks",
    response_model=TasksMade,
    status_code=201,
    responses=problem_responses(*COMMON, *BODY_ERRORS),
    openapi_extra=SECURED | takes(TasksRequest),
    operation_id="make_tasks",
    summary="Make tasks from stored decisions, by quota",
    description="Needs an admin key.",
    response_description="The tasks are in the queue.",
)
async def make_tasks(request: Request) -> Response:
    person, store = lead_of(request), store_of(request)
    body = await read_json(request, TasksRequest)
    made = await store.ask(
        partial(
            tasks.make_tasks,
            store.database,
            caller=person.name,
            count=body.count,
            since=body.since,
            until=body.until,
            seed=body.seed,
            reviews=body.reviews,
        )
    )
    return json_answer(TasksMade(made=made), 201)


@router.get(
    "/export",
    response_model=ExportPage,
    responses=problem_responses(*COMMON),
    openapi_extra=SECURED,
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
    lead_of(request)
    store = store_of(request)
    refuse_unprintable(cursor)
    found = await store.ask(partial(export.page, store.database, after=cursor, limit=limit + 1))
    items = [ExportItem.model_validate(one) for one in found[:limit]]
    return json_answer(ExportPage(items=items, next=items[-1].task if len(found) > limit else None))


@router.get(
    "/export/pictures/{sha256}",
    response_class=Response,
    responses=problem_responses(*COMMON, ReviewNotFound) | PICTURE,
    openapi_extra=SECURED,
    operation_id="export_picture",
    summary="A picture of a label",
    description="Needs an admin key.",
)
async def export_picture(
    request: Request, sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of its bytes.")]
) -> Response:
    lead_of(request)
    store = store_of(request)
    media_type = await store.ask(partial(export.picture, store.database, sha256))
    if media_type is None:
        raise ReviewNotFound("No task has this picture. It may have been erased.")
    return await send_picture(request, sha256, media_type)


@router.post(
    "/exports",
    response_model=ExportNoted,
    status_code=201,
    responses=problem_responses(*COMMON, *BODY_ERRORS, ReviewConflict),
    openapi_extra=SECURED | takes(ExportRequest),
    operation_id="note_export",
    summary="Record a snapshot, so that an erasure can name it",
    description="Needs an admin key. Refused if one of the tasks was erased meanwhile.",
    response_description="The snapshot is recorded.",
)
async def note_export(request: Request) -> Response:
    person, store = lead_of(request), store_of(request)
    body = await read_json(request, ExportRequest, max_bytes=_MAX_EXPORT)
    note = partial(export.note, store.database, caller=person.name, digest=body.digest, tasks=body.tasks)
    return json_answer(ExportNoted(id=await store.ask(note)), 201)
