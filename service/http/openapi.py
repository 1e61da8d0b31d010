"""What OpenAPI says beyond the answers' schemas: requests that are read by hand, problems and headers per path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.errors import (
    INTERNAL,
    MEDIA_TYPE,
    PROBLEMS,
    BodyEncoded,
    EngineLost,
    NotReady,
    Overloaded,
    Problem,
    SwapBusy,
    Unauthenticated,
    UnsupportedMediaType,
)
from service.schemas import ProblemBody, ScreenRequest

Object = dict[str, Any]
Responses = dict[int | str, Object]

_HEADERS: dict[str, Object] = {
    "X-Request-Id": {
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "description": "Name of this request in the service's log: the caller's own, where it sent a fit one.",
    },
    "Retry-After": {
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "description": "Whole seconds to wait before the request is sent again.",
    },
    "WWW-Authenticate": {
        "required": True,
        "schema": {"type": "string"},
        "description": "How to authenticate: `Bearer`.",
    },
    "Accept-Encoding": {
        "schema": {"type": "string", "enum": ["identity"]},
        "description": "Present when the body was compressed: it must be sent as it is (RFC 9110, section 12.5.3).",
    },
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "Present when this is the answer that was given to the same Idempotency-Key before.",
    },
}
_HEADERS_OF: dict[type[Exception], tuple[str, ...]] = {
    Overloaded: ("Retry-After",),
    NotReady: ("Retry-After",),
    EngineLost: ("Retry-After",),
    SwapBusy: ("Retry-After",),
    Unauthenticated: ("WWW-Authenticate",),
    UnsupportedMediaType: ("Accept-Encoding",),
    BodyEncoded: ("Accept-Encoding",),
}


def header(name: str) -> Object:
    """An entry of a response's `headers`."""
    return {name: {"$ref": f"#/components/headers/{name}"}}


def problem_responses(*errors: type[Exception]) -> Responses:
    """OpenAPI entries for the errors that a path can raise; a fault of the service is one of them on every path."""
    responses: Responses = {}
    for error in errors:
        entry = _add(responses, PROBLEMS[error])
        for name in _HEADERS_OF.get(error, ()):
            entry["headers"] |= header(name)
    _add(responses, INTERNAL)
    return responses


def _add(responses: Responses, problem: Problem) -> Object:
    empty: Object = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
    entry = responses.setdefault(problem.status, {"description": "", "headers": {}, "content": {MEDIA_TYPE: empty}})
    examples = entry["content"][MEDIA_TYPE]["examples"]
    if problem.slug not in examples:
        entry["description"] += f"{'; ' if examples else ''}`{problem.slug}`: {problem.title}"
        examples[problem.slug] = {"summary": problem.title, "value": _example(problem)}
    return entry


def _example(problem: Problem) -> Object:
    return {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": "What is wrong, where, and what to do.",
        "instance": "/screen",
        "request_id": "req_01KAHD5Z0Q9YB7M2T4V6W8X0ZC",
    }


_BINARY: Object = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}

SCREEN_REQUEST: Object = {
    "requestBody": {
        "required": True,
        "description": "The same fields in either encoding.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["original", "generated"],
                    "properties": {
                        "original": {**_BINARY, "description": "The photo of the product: JPEG, PNG, WebP or AVIF."},
                        "generated": {
                            "type": "array",
                            "items": _BINARY,
                            "minItems": 4,
                            "maxItems": 4,
                            "description": "The four generated pictures, in the order A, B, C, D.",
                        },
                        "mode": {
                            "type": "string",
                            "enum": ["cot", "direct"],
                            "default": "cot",
                            "description": "`cot`: think, then answer. `direct`: letters only.",
                        },
                        "metadata": {
                            "type": "string",
                            "description": "A JSON object as text, at most 4 KiB. The answer repeats it.",
                        },
                        "review_below": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                            "description": "Threshold of this request: an answer with a lower confidence carries "
                            "`needs_review`. Missing or empty: the operator's threshold.",
                        },
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


def extend_openapi(app: FastAPI, *requests: type[BaseModel]) -> None:
    """Add what FastAPI cannot see.

    Args:
        requests: models of bodies that are read by hand.
    """
    make: Callable[[], Object] = app.openapi

    def openapi() -> Object:
        if app.openapi_schema is None:
            app.openapi_schema = _extended(make(), (ScreenRequest, ProblemBody, *requests))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def _extended(schema: Object, models: tuple[type[BaseModel], ...]) -> Object:
    components = schema.setdefault("components", {})
    _, made = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas = components.setdefault("schemas", {})
    schemas.update(made["$defs"])
    schemas["Problem"] = schemas.pop(ProblemBody.__name__)
    components["headers"] = _HEADERS
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key that the operator gave you."}
    }
    for path in schema["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                response["headers"] = header("X-Request-Id") | response.get("headers", {})
    return schema
