"""What the routes of `/review` share: their errors, request bodies, pictures and answers."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.admission.upload import Upload
from service.errors import (
    BodyTimeout,
    DecisionsUnavailable,
    Forbidden,
    InvalidRequest,
    MalformedRequest,
    RequestTooLarge,
    ReviewNotFound,
    Unauthenticated,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.openapi import Responses
from service.http.review_access import service_of, store_of
from service.request.json_body import utf8_of
from service.request.request_body import read_body
from service.review.leases import LEASE

COMMON = (Unauthenticated, Forbidden, InvalidRequest, DecisionsUnavailable)
"""Errors of every path."""
BODY = (MalformedRequest, BodyTimeout, UploadTooSlow, RequestTooLarge, UnsupportedMediaType)
"""Errors of a path that takes a body."""
SECURED: dict[str, Any] = {"security": [{"key": []}]}
PICTURE: Responses = {200: {"description": "The picture as it was sent.", "content": {"image/*": {}}}}
"""OpenAPI entry of a path that answers with a picture."""
MAX_BODY = 64 * 2**10

Model = TypeVar("Model", bound=BaseModel)


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI entry of a path that takes a JSON body."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_order(request: Request, model: type[Model], *, max_bytes: int = MAX_BODY) -> Model:
    """Read a request body.

    Raises:
        MalformedRequest: the body is not JSON.
        InvalidRequest: a field is wrong or missing; the message names it.
    """
    body = await read_body(request, max_bytes=max_bytes, upload=Upload(service_of(request).settings.upload_pace))
    try:
        return model.model_validate_json(bytes(utf8_of(body)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedRequest(f"Send JSON with these fields: {', '.join(model.model_fields)}.") from None
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from None


async def send_picture(request: Request, sha256: str, media_type: str) -> Response:
    """Answer with a picture.

    Raises:
        ReviewNotFound: the picture is not in the store.
    """
    store = store_of(request)
    data = await store.ask(partial(store.pictures.get, sha256))
    if data is None:
        raise ReviewNotFound("The picture is not in the picture store. It may have been erased.")
    headers = {
        "Cache-Control": f"private, max-age={int(LEASE.total_seconds())}, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, headers=headers, media_type=media_type)


def refuse_unprintable(*texts: str | None) -> None:
    """Refuse characters that databases do not store: no id can contain them."""
    if not all(text is None or text.isprintable() for text in texts):
        raise InvalidRequest("A parameter has characters that cannot be printed.")


def json_answer(body: BaseModel, status: int = 200) -> Response:
    """Answer with JSON that no cache keeps."""
    headers = {"Cache-Control": "no-store"}
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
