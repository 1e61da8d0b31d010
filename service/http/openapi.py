"""Completes the OpenAPI description with what FastAPI cannot derive: request bodies, problems and headers."""

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
    DecisionsUnavailable,
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

PICTURE: Responses = {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}}
"""OpenAPI entry of a path that answers with a picture."""

_HEADERS: dict[str, Object] = {
    "X-Request-Id": {
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "description": "Id of this request in the service's log. A valid id from the caller is used unchanged.",
    },
    "Retry-After": {
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "description": "Number of seconds to wait before sending the request again.",
    },
    "WWW-Authenticate": {
        "required": True,
        "schema": {"type": "string"},
        "description": "Authentication scheme: `Bearer`.",
    },
    "Accept-Encoding": {
        "schema": {"type": "string", "enum": ["identity"]},
        "description": "Present if the body was compressed. Send it uncompressed (RFC 9110, section 12.5.3).",
    },
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "Present if this is the stored answer to an earlier request with the same Idempotency-Key.",
    },
}
_HEADERS_OF: dict[type[Exception], tuple[str, ...]] = {
    Overloaded: ("Retry-After",),
    NotReady: ("Retry-After",),
    EngineLost: ("Retry-After",),
    SwapBusy: ("Retry-After",),
    DecisionsUnavailable: ("Retry-After",),
    Unauthenticated: ("WWW-Authenticate",),
    UnsupportedMediaType: ("Accept-Encoding",),
    BodyEncoded: ("Accept-Encoding",),
}


def header(name: str) -> Object:
    """Return an entry for the `headers` of a response."""
    return {name: {"$ref": f"#/components/headers/{name}"}}


def problem_responses(*errors: type[Exception]) -> Responses:
    """Return the OpenAPI entries for the errors that a path can raise. An internal failure is always among them."""
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


def _described(field: str) -> str | None:
    """The description of a field that forms and JSON bodies have alike."""
    return ScreenRequest.model_fields[field].description


_BINARY: Object = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}

SCREEN_REQUEST: Object = {
    "requestBody": {
        "required": True,
        "description": "Both encodings have the same fields.",
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
                            "description": _described("generated"),
                        },
                        "mode": {
                            "type": "string",
                            "enum": ["cot", "direct"],
                            "default": "cot",
                            "description": _described("mode"),
                        },
                        "locate": {
                            "type": "string",
                            "enum": ["true", "false"],
                            "default": "false",
                            "description": _described("locate"),
                        },
                        "metadata": {
                            "type": "string",
                            "description": "A JSON object as text, at most 4 KiB. The answer echoes it. Decisions are "
                            "found and erased by its `product`.",
                        },
                        "review_below": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                            "description": _described("review_below"),
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
            "description": "Id of the request, which the response echoes. The service creates one if it is missing or "
            "invalid.",
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "description": "A repeated request with the same key gets the stored answer. Another request with the same "
            "key is answered 422.",
        },
    ],
    "security": [{}, {"key": []}],
}


def extend_openapi(app: FastAPI, *requests: type[BaseModel]) -> None:
    """Extend the OpenAPI description of an app with what FastAPI cannot derive.

    Args:
        requests: models of request bodies that the routes parse themselves.
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
        "key": {"type": "http", "scheme": "bearer", "description": "An API key from the operator."}
    }
    for path in schema["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                response["headers"] = header("X-Request-Id") | response.get("headers", {})
    return schema
