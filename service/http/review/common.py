"""What the routes of `/review` share: their errors, and how they send pictures."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from service.errors import (
    CrossOrigin,
    DecisionsUnavailable,
    Forbidden,
    InsufficientScope,
    InvalidRequest,
    ReviewNotFound,
    Unauthenticated,
)
from service.http.json_api import store_of
from service.review.leases import LEASE

COMMON = (Unauthenticated, Forbidden, InsufficientScope, CrossOrigin, InvalidRequest, DecisionsUnavailable)
"""Errors of every path."""


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
