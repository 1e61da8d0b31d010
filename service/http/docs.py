"""The page `/docs`, on which people can try the API. All its files are local, so it works without internet access."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "docs_page"
"""Our page, and Swagger UI 5.35.0 from the npm package swagger-ui-dist (Apache-2.0, see LICENSE and NOTICE there)."""
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}
_HEADERS = {
    # Swagger UI uses data: URLs for its icons and blob: URLs for pictures.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/")
async def get_root() -> Response:
    """Redirect to the page. The location is relative, so that the request's Host header cannot influence it."""
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
