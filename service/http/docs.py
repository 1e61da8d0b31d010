"""`/docs`: the interface as a page to try it. Its files come from here, so that it works without internet access."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "docs_page"
"""Swagger UI 5.35.0 as in the npm package swagger-ui-dist (Apache-2.0; LICENSE and NOTICE beside it), and our page."""
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}
_HEADERS = {
    # Swagger UI draws its icons from data: URLs, and shows pictures from blob: URLs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/")
async def get_root() -> Response:
    """Lead people to the page. The address is relative: nothing of the request's Host goes into it."""
    return Response(status_code=307, headers={"Location": "docs"})


@router.get("/docs")
async def get_docs() -> Response:
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS, media_type="text/html")


def _serve(name: str, media_type: str) -> None:
    async def get_file() -> Response:
        headers = _HEADERS | {"Cache-Control": "public, max-age=3600"}
        return FileResponse(_FOLDER / name, headers=headers, media_type=media_type)

    router.add_api_route(f"/docs/{name}", get_file, methods=["GET"])


for _name, _media_type in _FILES.items():
    _serve(_name, _media_type)
