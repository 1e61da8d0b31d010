"""`/decisions`: kept decisions, their pictures, feedback and erasure. They exist only if the service keeps
decisions."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from screening.task import NONE, OPTIONS
from service.admission.upload import Upload
from service.config.named_keys import NamedKey
from service.decisions import erasure, feedback, reading
from service.decisions.store import DecisionStore
from service.errors import (
    BodyTimeout,
    DecisionNotFound,
    DecisionsUnavailable,
    Forbidden,
    IdempotencyKeyReused,
    InvalidRequest,
    MalformedRequest,
    RequestTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.auth import caller_of, check_key
from service.http.decision_bodies import (
    Decision,
    DecisionPage,
    DecisionPicture,
    DecisionSummary,
    Feedback,
    FeedbackOrder,
)
from service.http.moments import Moment
from service.http.openapi import problem_responses
from service.ids import valid_idempotency_key
from service.pipeline.screen import Service
from service.request.json_body import utf8_of
from service.request.request_body import read_body
from service.schemas import ScreenAnswer

router = APIRouter(prefix="/decisions", tags=["decisions"])

_MAX_BODY = 16 * 2**10
DecisionId = Annotated[str, Path(max_length=64, description="The answer's `id`.")]
Position = Annotated[int, Path(ge=0, le=len(OPTIONS), description="0 for the original, 1 to 4 for A to D.")]

_SECURED: dict[str, Any] = {"security": [{"key": []}]}
_COMMON = (Unauthenticated, Forbidden, InvalidRequest, DecisionsUnavailable)


@router.get(
    "",
    response_model=DecisionPage,
    responses=problem_responses(*_COMMON),
    openapi_extra=_SECURED,
    operation_id="list_decisions",
    summary="Kept decisions, newest first",
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
    store = _let_in(request)
    filters = reading.Filters(
        since, until, checkpoint, choice, min_confidence, max_confidence, needs_review, product, caller
    )
    _refuse_unprintable(cursor, checkpoint, product, caller)
    rows = await store.ask(partial(reading.page, store.database, filters, before=cursor, limit=limit + 1))
    shown = rows[:limit]
    page = DecisionPage(
        decisions=[
            DecisionSummary.model_validate({name: row._mapping[name] for name in DecisionSummary.model_fields})
            for row in shown
        ],
        next=shown[-1].id if len(rows) > limit else None,
    )
    return _json(page)


@router.get(
    "/{decision}",
    response_model=Decision,
    responses=problem_responses(*_COMMON, DecisionNotFound),
    openapi_extra=_SECURED,
    operation_id="get_decision",
    summary="One decision with its feedback",
    response_description="The decision.",
)
async def get_decision(request: Request, decision: DecisionId) -> Response:
    store = _let_in(request)
    _refuse_unprintable(decision)
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
    return _json(body)


@router.get(
    "/{decision}/pictures/{position}",
    response_class=Response,
    responses=problem_responses(*_COMMON, DecisionNotFound)
    | {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}},
    openapi_extra=_SECURED,
    operation_id="get_decision_picture",
    summary="A picture of a decision: 0 is the original, 1 to 4 are A to D",
)
async def get_decision_picture(request: Request, decision: DecisionId, position: Position) -> Response:
    store = _let_in(request)
    _refuse_unprintable(decision)
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
    responses=problem_responses(
        MalformedRequest, *_COMMON, DecisionNotFound, BodyTimeout, UploadTooSlow, RequestTooLarge,
        UnsupportedMediaType, IdempotencyKeyReused,
    ),
    openapi_extra=_SECURED
    | {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FeedbackOrder"}}},
        }
    },
    operation_id="send_feedback",
    summary="Say what became of a decision",
    response_description="The feedback was added, or had been added with the same Idempotency-Key.",
)  # fmt: skip
async def send_feedback(request: Request, decision: DecisionId) -> Response:
    store, service = _let_in(request), _service(request)
    _refuse_unprintable(decision)
    key = _idempotency_key(request)
    body = await read_body(request, max_bytes=_MAX_BODY, upload=Upload(service.settings.upload_pace))
    order = _order_in(body)
    add = partial(
        feedback.add,
        store.database,
        decision,
        caller=caller_of(request) or "",
        kind=order.kind,
        options="" if order.options == NONE else order.options,
        comment=order.comment,
        idempotency_key=key,
    )
    try:
        row, _ = await store.ask(add)
    except feedback.UnknownDecision:
        raise _not_found(decision) from None
    return _json(_feedback(row), status=201)


@router.delete(
    "/{decision}",
    status_code=204,
    responses=problem_responses(*_COMMON),
    openapi_extra=_SECURED,
    operation_id="erase_decision",
    summary="Erase a decision with its feedback and the pictures that no other decision shows",
    description="Needs an admin key. Erasing it again, or one that was never kept, answers 204 too.",
    response_description="It is erased.",
    response_class=Response,
)
async def erase_decision(request: Request, decision: DecisionId) -> Response:
    store = _let_in(request, admin=True)
    _refuse_unprintable(decision)
    erase = partial(erasure.erase_one, store.database, store.pictures, decision, caller=caller_of(request) or "")
    await store.ask(erase)
    return Response(status_code=204)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _let_in(request: Request, *, admin: bool = False) -> DecisionStore:
    """Check that the caller has a key for this path.

    Raises:
        Forbidden: no such key is set.
        Unauthenticated: the caller has no valid key.
    """
    settings, store = _service(request).settings, _service(request).decisions
    assert store is not None, "the router is only included if decisions are kept"  # noqa: S101
    allowed: tuple[NamedKey, ...] = settings.admin_keys if admin else settings.feedback_keys
    if not allowed:
        name = "SCREENING_ADMIN_KEYS" if admin else "SCREENING_FEEDBACK_KEYS"
        raise Forbidden(f"Set {name} to the SHA-256 of a key to use this path.")
    check_key(request, allowed, "an admin key" if admin else "a feedback key")
    return store


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1 or not all(map(valid_idempotency_key, keys)):
        raise MalformedRequest("Idempotency-Key must be given once and be 1 to 255 visible ASCII characters.")
    return keys[0] if keys else None


def _order_in(body: bytes | bytearray) -> FeedbackOrder:
    try:
        return FeedbackOrder.model_validate_json(bytes(utf8_of(body)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedRequest('Send JSON, for example {"kind": "verdict", "options": "AC"}.') from None
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from None


def _refuse_unprintable(*texts: str | None) -> None:
    """Refuse characters that databases do not store: no decision can contain them."""
    if not all(text is None or text.isprintable() for text in texts):
        raise InvalidRequest("A parameter has characters that cannot be printed.")


def _not_found(decision: str) -> DecisionNotFound:
    return DecisionNotFound(
        f"There is no decision {decision!r}: it was erased, is not kept, or has not been written yet (that takes about "
        "a second)."
    )


def _feedback(row: sa.Row[Any]) -> Feedback:
    fields = {name: row._mapping[name] for name in Feedback.model_fields}
    return Feedback.model_validate(fields | {"options": NONE if fields["options"] == "" else fields["options"]})


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")
