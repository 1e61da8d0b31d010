"""The HTTP routes that docs/http-api.md describes. `service.pipeline.screen` does the work of `POST /screen`."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from screening.errors import ImageShapeRefused, ImageTooLarge, ImageUnreadable, ImageUnsupported
from service.errors import (
    INTERNAL,
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    NOT_READY,
    BodyEncoded,
    BodyTimeout,
    DeadlineExceeded,
    DecisionsUnavailable,
    EngineLost,
    Forbidden,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidRequest,
    LocateUnsupported,
    MalformedRequest,
    NotReady,
    Overloaded,
    PictureFetchFailed,
    PictureUrlRefused,
    Problem,
    RequestTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
    UploadTooSlow,
    detail_of,
    problem_body,
    problem_of,
)
from service.http.auth import authorize, key_of
from service.http.json_api import idempotency_key, service_of
from service.http.openapi import SCREEN_REQUEST, header, problem_responses
from service.http.paths import meant, route_path
from service.metrics import CONTENT_TYPE
from service.pipeline.screen import Caller, Service, screen
from service.schemas import Health, ScreenAnswer

LOGGER = logging.getLogger("service.http.routes")
router = APIRouter()

SCREEN_ERRORS = (
    MalformedRequest,
    Unauthenticated,
    Forbidden,
    InsufficientScope,
    BodyTimeout,
    UploadTooSlow,
    RequestTooLarge,
    UnsupportedMediaType,
    InvalidRequest,
    LocateUnsupported,
    IdempotencyKeyReused,
    ImageUnsupported,
    ImageUnreadable,
    ImageTooLarge,
    ImageShapeRefused,
    PictureUrlRefused,
    PictureFetchFailed,
    Overloaded,
    NotReady,
    DecisionsUnavailable,
    DeadlineExceeded,
)
"""Errors that `POST /screen` can answer."""


@router.post(
    "/screen",
    response_model=ScreenAnswer,
    responses=problem_responses(*SCREEN_ERRORS) | {200: {"headers": header("Idempotent-Replayed")}},
    openapi_extra=SCREEN_REQUEST,
    operation_id="screen",
    tags=["screening"],
    summary="Decide which of four generated pictures may be shown",
    response_description="The decision.",
)
async def post_screen(request: Request) -> Response:
    """Takes one original photo and four generated pictures of the same product. The answer says which of the four may
    be shown, what is wrong with the others, and how confident the model is."""
    service = service_of(request)
    fields: dict[str, Any] = request.state.log
    outcome, status = NOT_READY.slug, NOT_READY.status  # `RequestMiddleware` answers this if cancelled
    try:
        caller = _authenticate(request, service)
        screened = await screen(request, service, caller, idempotency_key(request))
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
    """Log fields of an answer. A replayed answer has none: its first log line has the same id and all fields."""
    if answer is None:
        return {}
    return {
        "reason": answer.unreadable_reason,
        "choice": answer.choice,
        "confidence": round(answer.confidence, 4),
        "warnings": [warning.code for warning in answer.warnings],
        "mode": answer.mode.value,
        "checkpoint": answer.checkpoint.digest,
        "engine": answer.engine,
        "timings": answer.timings.model_dump(),
    }


@router.get(
    "/livez",
    response_model=Health,
    responses=problem_responses(EngineLost),
    operation_id="livez",
    tags=["probes"],
    response_description="The probe succeeds.",
    summary="Liveness probe",
    description="Restart the process if this probe does not answer 200.",
)
async def get_livez(request: Request) -> Response:
    service = service_of(request)
    hopeless = service.supervisor.hopeless if service.supervisor is not None else not service.engine.alive
    if hopeless:
        raise EngineLost(service.admission.ready_in())
    return _healthy(service)


@router.get(
    "/readyz",
    response_model=Health,
    responses=problem_responses(NotReady, EngineLost),
    operation_id="readyz",
    tags=["probes"],
    response_description="The probe succeeds.",
    summary="Readiness probe",
    description="Send requests only while this probe answers 200.",
)
async def get_readyz(request: Request) -> Response:
    service = service_of(request)
    if service.admission.closed_because is not None:
        raise service.admission.refusal()
    if not service.engine.alive:
        raise EngineLost(service.admission.ready_in())
    return _healthy(service)


@router.get(
    "/startupz",
    response_model=Health,
    responses=problem_responses(NotReady),
    operation_id="startupz",
    tags=["probes"],
    response_description="The probe succeeds.",
    summary="Startup probe",
    description="Answers 200 once the engine has started.",
)
async def get_startupz(request: Request) -> Response:
    service = service_of(request)
    if not request.app.state.started:
        raise NotReady("The service is starting.")
    return _healthy(service)


@router.get(
    "/metrics",
    response_class=Response,
    responses=problem_responses()
    | {
        200: {"description": "Metrics in Prometheus format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
    operation_id="metrics",
    tags=["probes"],
    summary="Metrics in Prometheus format",
    description="Names of the service's metrics begin with `screening_`, those of the engine with `vllm:`.",
)
async def get_metrics(request: Request) -> Response:
    service = service_of(request)
    metrics = service.metrics
    metrics.running.set(service.engine.running())
    metrics.engine_alive.set(service.engine.alive)
    metrics.ready.set(service.engine.alive and service.admission.is_open)
    return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer any error that a route raises as an RFC 9457 problem."""
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        error = _of_parameters(error)
    if isinstance(error, HTTPException):
        problem, detail = _of_routing(request, error)
        headers.update(error.headers or {})
        if "GET" in headers.get("Allow", ""):
            headers["Allow"] += ", HEAD"
    else:
        problem = problem_of(error)
        detail = detail_of(error, problem)
        if problem is INTERNAL:
            LOGGER.error("fault", exc_info=error)
    if (retry_after := getattr(error, "retry_after", None)) is not None:
        headers["Retry-After"] = str(retry_after)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="screening"'
    if isinstance(error, BodyEncoded):
        headers["Accept-Encoding"] = "identity"
    body = problem_body(
        problem,
        detail,
        path=request.url.path,
        request_id=request.state.request_id,
        picture=getattr(error, "picture", None),
    )
    return Response(body, problem.status, headers, MEDIA_TYPE)


def _of_parameters(error: RequestValidationError) -> InvalidRequest:
    """The first parameter of the path or query that FastAPI refused."""
    first = error.errors()[0]
    return InvalidRequest(f"{first['loc'][-1]}: {first['msg']}")


def _of_routing(request: Request, error: HTTPException) -> tuple[Problem, str]:
    """The problem for an unknown path or method. It suggests the path that the caller probably meant."""
    path = route_path(request.scope)
    what = f"{request.method} {request.url.path}"
    if error.status_code == METHOD_NOT_ALLOWED.status:
        return METHOD_NOT_ALLOWED, f"{what}: the path does not support this method. The Allow header lists its methods."
    if error.status_code != NOT_FOUND.status:
        problem = Problem(error.status_code, "malformed-request", "The request could not be read")
        return problem, f"{what}: the request could not be read."
    known = meant(path, (route.path for route in request.app.routes))
    if known is None:
        return NOT_FOUND, f"{what}: the path does not exist. GET /docs lists all paths."
    return NOT_FOUND, f"{what}: the path does not exist. Use {request.scope.get('root_path', '')}{known}."


def _healthy(service: Service) -> Response:
    return JSONResponse({"status": "ok", "engine": service.engine.name})


def _authenticate(request: Request, service: Service) -> Caller:
    """Check the API key if callers need one."""
    try:
        name = authorize(request, "screen")
    except (Unauthenticated, InsufficientScope, Forbidden) as error:
        reason = "unauthenticated" if isinstance(error, Unauthenticated) else "insufficient_scope"
        service.metrics.rejected.labels(reason).inc()
        raise
    return Caller(name, key_of(request).sha256) if service.settings.needs_key else Caller("", "")
