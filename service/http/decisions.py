"""`/decisions`: stored decisions, their pictures, feedback and erasure. They exist only if the service keeps
decisions."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from screening.task import NONE, OPTIONS
from service.config.named_keys import Scope
from service.decisions import erasure, feedback, reading
from service.decisions.store import DecisionStore
from service.errors import (
    DecisionNotFound,
    DecisionsUnavailable,
    Forbidden,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidRequest,
    MalformedRequest,
    Unauthenticated,
)
from service.http.auth import authorize
from service.http.decision_bodies import (
    Decision,
    DecisionPage,
    DecisionPicture,
    DecisionSummary,
    Feedback,
    FeedbackRequest,
)
from service.http.json_api import (
    BODY_ERRORS,
    SECURED,
    json_answer,
    read_order,
    refuse_unprintable,
    service_of,
    takes,
)
from service.http.moments import Moment
from service.http.openapi import problem_responses
from service.ids import valid_idempotency_key
from service.schemas import ScreenAnswer

router = APIRouter(prefix="/decisions", tags=["decisions"])

DecisionId = Annotated[str, Path(max_length=64, description="The answer's `id`.")]
Position = Annotated[int, Path(ge=0, le=len(OPTIONS), description="0 for the original, 1 to 4 for A to D.")]

_COMMON = (Unauthenticated, Forbidden, InsufficientScope, InvalidRequest, DecisionsUnavailable)


@router.get(
    "",
    response_model=DecisionPage,
    responses=problem_responses(*_COMMON),
    openapi_extra=SECURED,
    operation_id="list_decisions",
    summary="Stored decisions, newest first",
    response_description="One page.",
)
async def list_decisions(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500, description="Decisions per page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the previous page.")] = None,
    since: Annotated[Moment | None, Query(description="Earliest time of the answer.")] = None,
    until: Annotated[Moment | None, Query(description="Time before which the answer was given.")] = None,
    checkpoint: Annotated[str | None, Query(max_length=80, description="Digest of the checkpoint.")] = None,
    choice: Annotated[Literal["A", "B", "C", "D", "N"] | None, Query(description="The chosen picture.")] = None,
    min_confidence: Annotated[float | None, Query(ge=0, le=1, description="Minimum confidence.")] = None,
    max_confidence: Annotated[float | None, Query(ge=0, le=1, description="Maximum confidence.")] = None,
    needs_review: Annotated[bool | None, Query(description="Whether the answer asked for a human review.")] = None,
    product: Annotated[str | None, Query(max_length=256, description="`metadata.product` of the request.")] = None,
    caller: Annotated[str | None, Query(max_length=64, description="Name of the key that asked.")] = None,
) -> Response:
    store, _ = _let_in(request)
    filters = reading.Filters(
        since, until, checkpoint, choice, min_confidence, max_confidence, needs_review, product, caller
    )
    refuse_unprintable(cursor, checkpoint, product, caller)
    rows = await store.ask(partial(reading.page, store.database, filters, before=cursor, limit=limit + 1))
    shown = rows[:limit]
    page = DecisionPage(
        decisions=[
            DecisionSummary.model_validate({name: row._mapping[name] for name in DecisionSummary.model_fields})
            for row in shown
        ],
        next=shown[-1].id if len(rows) > limit else None,
    )
    return json_answer(page)


@router.get(
    "/{decision}",
    response_model=Decision,
    responses=problem_responses(*_COMMON, DecisionNotFound),
    openapi_extra=SECURED,
    operation_id="get_decision",
    summary="One decision with its feedback",
    response_description="The decision.",
)
async def get_decision(request: Request, decision: DecisionId) -> Response:
    store, _ = _let_in(request)
    refuse_unprintable(decision)
    found = await store.ask(partial(reading.one, store.database, decision))
    if found is None:
        raise _not_found(decision)
    row, pictures, given = found
    body = Decision(
        id=row.id,
        created_at=row.created_at,
        caller=row.caller,
        answer=ScreenAnswer.model_validate(row.answer),
        pictures=[DecisionPicture.model_validate(dict(one._mapping)) for one in pictures],
        feedback=[_feedback(one) for one in given],
    )
    return json_answer(body)


@router.get(
    "/{decision}/pictures/{position}",
    response_class=Response,
    responses=problem_responses(*_COMMON, DecisionNotFound)
    | {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}},
    openapi_extra=SECURED,
    operation_id="get_decision_picture",
    summary="A picture of a decision: 0 is the original, 1 to 4 are A to D",
)
async def get_decision_picture(request: Request, decision: DecisionId, position: Position) -> Response:
    store, _ = _let_in(request)
    refuse_unprintable(decision)
    found = await store.ask(partial(reading.picture_of, store.database, decision, position))
    data = None if found is None else await store.ask(partial(store.pictures.get, found[0]))
    if found is None or data is None:
        raise _not_found(decision)
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type=found[1])


@router.post(
    "/{decision}/feedback",
    response_model=Feedback,
    status_code=201,
    responses=problem_responses(*_COMMON, *BODY_ERRORS, DecisionNotFound, IdempotencyKeyReused),
    openapi_extra=SECURED | takes(FeedbackRequest),
    operation_id="send_feedback",
    summary="Add feedback to a decision",
    response_description="The feedback was added, or had been added with the same Idempotency-Key.",
)
async def send_feedback(request: Request, decision: DecisionId) -> Response:
    store, caller = _let_in(request)
    refuse_unprintable(decision)
    key = _idempotency_key(request)
    order = await read_order(request, FeedbackRequest)
    add = partial(
        feedback.add,
        store.database,
        decision,
        caller=caller,
        kind=order.kind,
        options="" if order.options == NONE else order.options,
        comment=order.comment,
        idempotency_key=key,
    )
    try:
        row, _ = await store.ask(add)
    except feedback.UnknownDecision:
        raise _not_found(decision) from None
    return json_answer(_feedback(row), status=201)


@router.delete(
    "/{decision}",
    status_code=204,
    responses=problem_responses(*_COMMON),
    openapi_extra=SECURED,
    operation_id="erase_decision",
    summary="Erase a decision with its feedback and the pictures that no other decision shows",
    description="Needs the scope `admin`. Erasing it again, or one that was never kept, answers 204 too.",
    response_description="It is erased.",
    response_class=Response,
)
async def erase_decision(request: Request, decision: DecisionId) -> Response:
    store, caller = _let_in(request, "admin")
    refuse_unprintable(decision)
    await store.ask(partial(erasure.erase_one, store.database, store.pictures, decision, caller=caller))
    return Response(status_code=204)


def _let_in(request: Request, scope: Scope = "feedback") -> tuple[DecisionStore, str]:
    """Check that the caller may use this path; returns the store and the caller's name.

    Raises:
        Unauthenticated, InsufficientScope, Forbidden: see `authorize`.
    """
    store = service_of(request).decisions
    assert store is not None, "the router is only included if decisions are kept"  # noqa: S101
    return store, authorize(request, scope)


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1 or not all(map(valid_idempotency_key, keys)):
        raise MalformedRequest("Idempotency-Key must be given once and be 1 to 255 visible ASCII characters.")
    return keys[0] if keys else None


def _not_found(decision: str) -> DecisionNotFound:
    return DecisionNotFound(
        f"There is no decision {decision!r}: it was erased, is not kept, or has not been written yet (that takes about "
        "a second)."
    )


def _feedback(row: sa.Row[Any]) -> Feedback:
    fields = {name: row._mapping[name] for name in Feedback.model_fields}
    return Feedback.model_validate(fields | {"options": NONE if fields["options"] == "" else fields["options"]})
