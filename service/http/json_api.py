"""JSON request bodies and answers of the paths beside `/screen`, which parses its own, larger bodies."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.admission.upload import Upload
from service.errors import (
    BodyTimeout,
    InvalidRequest,
    MalformedRequest,
    RequestTooLarge,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.pipeline.screen import Service
from service.request.json_body import utf8_of
from service.request.request_body import read_body
from service.schemas import has_control_characters

BODY_ERRORS = (MalformedRequest, BodyTimeout, UploadTooSlow, RequestTooLarge, UnsupportedMediaType, InvalidRequest)
"""Errors of a path that takes a body."""
SECURED: dict[str, Any] = {"security": [{"key": []}]}
"""OpenAPI entry of a path that needs a key."""
MAX_BODY = 64 * 2**10
"""Maximum size of a body in bytes, if its path sets no other. It has room for one comment."""

Model = TypeVar("Model", bound=BaseModel)


def service_of(request: Request) -> Service:
    """The service that answers a request."""
    service: Service = request.app.state.service
    return service


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI entry of a path that takes a JSON body."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_order(request: Request, model: type[Model], *, max_bytes: int = MAX_BODY) -> Model:
    """Read a request body.

    Args:
        max_bytes: maximum size of the body in bytes.

    Raises:
        MalformedRequest: the body is not JSON.
        InvalidRequest: a field is wrong or missing; the message names it.
        BodyTimeout, UploadTooSlow, RequestTooLarge, UnsupportedMediaType: see `read_body`.
    """
    body = await read_body(request, max_bytes=max_bytes, upload=Upload(service_of(request).settings.upload_pace))
    try:
        return model.model_validate_json(bytes(utf8_of(body)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            fields = ", ".join(model.model_fields)
            raise MalformedRequest(f"The body is not JSON. Send an object with these fields: {fields}.") from None
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from None


def refuse_unprintable(*texts: str | None) -> None:
    """Refuse characters that databases do not store: no id or product can contain them.

    Raises:
        InvalidRequest: a text has control characters.
    """
    if any(text is not None and has_control_characters(text) for text in texts):
        raise InvalidRequest("A parameter has characters that cannot be printed.")


def json_answer(body: BaseModel, status: int = 200) -> Response:
    """Answer with JSON that no cache keeps."""
    return Response(body.model_dump_json(), status, {"Cache-Control": "no-store"}, media_type="application/json")
