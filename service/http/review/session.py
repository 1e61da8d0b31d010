"""`/review/session`: reviewers exchange their key for a cookie, so that no script of the page holds the key."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.errors import CrossOrigin, Forbidden, InsufficientScope, Unauthenticated
from service.http.auth import admit, check_origin
from service.http.json_api import BODY_ERRORS, read_json, takes
from service.http.openapi import problem_responses
from service.http.session_token import COOKIE, SECONDS, issue
from service.schemas import RequestBody

router = APIRouter(prefix="/review/session", tags=["review"])

_MAX_BODY = 16 * 2**10


class SessionRequest(RequestBody):
    """Request to sign in."""

    key: str = Field(min_length=1, max_length=1024)
    """A key with the scope `review`."""


@router.post(
    "",
    status_code=204,
    response_class=Response,
    responses=problem_responses(Unauthenticated, Forbidden, InsufficientScope, CrossOrigin, *BODY_ERRORS),
    openapi_extra=takes(SessionRequest),
    operation_id="sign_in",
    summary="Sign in as a reviewer",
    description=f"Sets the cookie `{COOKIE}`, which ends after {SECONDS // 3600} hours, and earlier if the key is "
    "removed. It is valid for `/review` only.",
    response_description="The cookie is set.",
)
async def sign_in(request: Request) -> Response:
    check_origin(request)
    body = await read_json(request, SessionRequest, max_bytes=_MAX_BODY)
    key = admit(request, body.key.strip().encode(), "review")
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
