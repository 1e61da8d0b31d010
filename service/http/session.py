"""`/review/session`: reviewers exchange their key for a cookie, so that no script of the page holds the key."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.admission.upload import Upload
from service.errors import (
    BodyTimeout,
    CrossOrigin,
    Forbidden,
    InsufficientScope,
    InvalidRequest,
    MalformedRequest,
    RequestTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.auth import admit, check_origin
from service.http.openapi import problem_responses
from service.http.session_token import COOKIE, SECONDS, issue
from service.pipeline.screen import Service
from service.request.json_body import utf8_of
from service.request.request_body import read_body

router = APIRouter(prefix="/review/session", tags=["review"])

_MAX_BODY = 4096


class SessionOrder(BaseModel):
    """Request to sign in."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    key: str = Field(min_length=1, max_length=1024)
    """A key with the scope `review`."""


_ORDER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SessionOrder"}}},
    },
}


@router.post(
    "",
    status_code=204,
    response_class=Response,
    responses=problem_responses(
        MalformedRequest, Unauthenticated, Forbidden, InsufficientScope, CrossOrigin, BodyTimeout, UploadTooSlow,
        RequestTooLarge, UnsupportedMediaType, InvalidRequest,
    ),
    openapi_extra=_ORDER,
    operation_id="sign_in",
    summary="Sign in as a reviewer",
    description=f"Sets the cookie `{COOKIE}`, which ends after {SECONDS // 3600} hours, and earlier if the key is "
    "removed. It is valid for `/review` only.",
    response_description="The cookie is set.",
)  # fmt: skip
async def sign_in(request: Request) -> Response:
    check_origin(request)
    service: Service = request.app.state.service
    body = await read_body(request, max_bytes=_MAX_BODY, upload=Upload(service.settings.upload_pace))
    key = admit(request, _order_in(body).key.strip().encode(), "review")
    response = Response(status_code=204)
    response.set_cookie(COOKIE, issue(key, time.time()), max_age=SECONDS, **_attributes(request))
    return response


@router.delete(
    "",
    status_code=204,
    response_class=Response,
    responses=problem_responses(CrossOrigin),
    operation_id="sign_out",
    summary="Sign out",
    response_description="The cookie is deleted.",
)
async def sign_out(request: Request) -> Response:
    check_origin(request)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, **_attributes(request))
    return response


def _attributes(request: Request) -> dict[str, Any]:
    """Attributes of the cookie. The page's origin tells whether the browser uses https, which a proxy may end."""
    secure = "https" in (request.url.scheme, urlsplit(request.headers["origin"]).scheme)
    return {"httponly": True, "samesite": "strict", "secure": secure}


def _order_in(body: bytes | bytearray) -> SessionOrder:
    try:
        return SessionOrder.model_validate_json(bytes(utf8_of(body)))
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            raise MalformedRequest('The body is not JSON. Send {"key": KEY}.') from None
        raise InvalidRequest("key must be a text of 1 to 1024 characters, and no other field is known.") from None
