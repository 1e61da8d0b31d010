"""The paths of docs/http-api.md. Each is thin: the work is in `screen`, the wiring in `app`."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.errors import (
    INTERNAL,
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    NOT_READY,
    PROBLEMS,
    EngineLost,
    MalformedRequest,
    NotReady,
    Problem,
    Unauthenticated,
    detail_of,
    problem_body,
    problem_of,
)
from service.identity import valid_idempotency_key
from service.keys import check_key
from service.metrics import CONTENT_TYPE
from service.schemas import Health, ScreenAnswer
from service.screen import Service, screen

LOGGER = logging.getLogger("service.routes")
router = APIRouter()

_PROBLEM_SCHEMA = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that a path can answer."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in (*PROBLEMS.values(), METHOD_NOT_ALLOWED, NOT_FOUND):
        if problem.status in statuses:
            slugs = responses.get(problem.status, {}).get("description", "")
            description = slugs if problem.slug in slugs else f"{slugs}, {problem.slug}".strip(", ")
            responses[problem.status] = {"description": description, "content": _PROBLEM_SCHEMA}
    return responses


_SCREEN_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["original", "generated"],
                    "properties": {
                        "original": _BINARY,
                        "generated": {"type": "array", "items": _BINARY, "minItems": 4, "maxItems": 4},
                        "mode": {"type": "string", "enum": ["cot", "direct"], "default": "cot"},
                        "metadata": {"type": "string", "description": "A JSON object as text, at most 4 KiB."},
                    },
                    "additionalProperties": False,
                }
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/ScreenRequest"}},
        },
    },
    "parameters": [
        {
            "name": "X-Request-Id",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
            "description": "Echoed; one is made when it is missing or does not have this form.",
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "description": "The same key with the same request gets the same answer again; with another request, 422.",
        },
    ],
    "security": [{}, {"key": []}],
}

_REPLAYED: dict[str, Any] = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "Present when this is the answer that was given to the same Idempotency-Key before.",
    }
}


@router.post(
    "/screen",
    response_model=ScreenAnswer,
    responses=problem_responses(400, 401, 408, 413, 415, 422, 429, 500, 503, 504) | {200: {"headers": _REPLAYED}},
    openapi_extra=_SCREEN_REQUEST,
    summary="Which of four generated pictures may be shown?",
)
async def post_screen(request: Request) -> Response:
    service: Service = request.app.state.service
    fields: dict[str, Any] = request.state.log
    outcome, status = NOT_READY.slug, NOT_READY.status  # of a request that is cancelled, as `Edge` answers it
    try:
        caller = _authenticate(request, service)
        _check_headers(request)
        screened = await screen(request, service, caller)
        outcome, status = screened.reply.outcome, 200
        service.metrics.answers.labels(screened.source).inc()
        fields.update(id=screened.reply.id, outcome=outcome, source=screened.source, **_log_fields(screened.answer))
        headers = {"Idempotent-Replayed": "true"} if screened.answer is None else {}
        return Response(screened.reply.body, headers=headers, media_type="application/json")
    except Exception as error:
        problem = problem_of(error)
        outcome, status = problem.slug, problem.status
        fields.update(outcome=outcome)
        raise
    finally:
        service.metrics.requests.labels(str(status), outcome).inc()


def _log_fields(answer: ScreenAnswer | None) -> dict[str, Any]:
    """What the log says of an answer; of one that goes out again, the line of the first time does, by its id."""
    if answer is None:
        return {}
    return {
        "reason": answer.unreadable_reason,
        "choice": answer.choice,
        "confidence": round(answer.confidence, 4),
        "mode": answer.mode.value,
        "checkpoint": answer.checkpoint.digest,
        "engine": answer.engine,
        "timings": answer.timings.model_dump(),
    }


@router.get("/livez", response_model=Health, responses=problem_responses(503), summary="Restart me unless 200")
async def get_livez(request: Request) -> Response:
    service: Service = request.app.state.service
    hopeless = service.supervisor.hopeless if service.supervisor is not None else not service.engine.alive
    if hopeless:
        raise EngineLost(service.admission.ready_in())
    return _healthy(service)


@router.get("/readyz", response_model=Health, responses=problem_responses(503), summary="Send requests only if 200")
async def get_readyz(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.admission.closed_because is not None:
        raise service.admission.refusal()
    if not service.engine.alive:
        raise EngineLost(service.admission.ready_in())
    return _healthy(service)


@router.get("/startupz", response_model=Health, responses=problem_responses(503), summary="200 once start-up is over")
async def get_startupz(request: Request) -> Response:
    service: Service = request.app.state.service
    if not request.app.state.started:
        raise NotReady("The service is starting.")
    return _healthy(service)


@router.get("/metrics", summary="Prometheus text", response_class=Response)
async def get_metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    metrics = service.metrics
    metrics.running.set(service.engine.running())
    metrics.engine_alive.set(service.engine.alive)
    metrics.ready.set(service.engine.alive and service.admission.is_open)
    return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})


async def answer_error(request: Request, error: Exception) -> Response:
    """Every error that a route raises, as an RFC 9457 problem."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        problem = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(error.status_code) or Problem(
            error.status_code, "malformed-request", "The request could not be read"
        )
        detail = f"{request.method} {request.url.path}: {problem.title.lower()}. GET /docs shows what there is."
        headers.update(error.headers or {})
    else:
        problem = problem_of(error)
        detail = detail_of(error, problem)
        if problem is INTERNAL:
            LOGGER.error("fault", exc_info=error)
    if (retry_after := getattr(error, "retry_after", None)) is not None:
        headers["Retry-After"] = str(retry_after)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="screening"'
    body = problem_body(
        problem,
        detail,
        path=request.url.path,
        request_id=request.state.request_id,
        picture=getattr(error, "picture", None),
    )
    return Response(body, problem.status, headers, MEDIA_TYPE)


def _healthy(service: Service) -> Response:
    return JSONResponse({"status": "ok", "engine": service.engine.name})


def _authenticate(request: Request, service: Service) -> str:
    """Let in everyone when no keys are set, and otherwise who has one. Returns the caller's name; "" for everyone."""
    if not service.settings.api_keys:
        return ""
    try:
        return check_key(request, service.settings.api_keys, "a key")
    except Unauthenticated:
        service.metrics.rejected.labels("unauthenticated").inc()
        raise


def _check_headers(request: Request) -> None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1 or not all(map(valid_idempotency_key, keys)):
        raise MalformedRequest("Idempotency-Key must be given once and be 1 to 255 visible ASCII characters.")
