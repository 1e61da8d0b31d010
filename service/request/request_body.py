"""Reads and parses the body of a request, up to five pictures with accepted headers.

`read_body` enforces a byte limit and a minimum pace (`service.admission.upload`), independent of Content-Length. The
body stays in memory and is never written to disk. `parse` must run in a thread: parsing a hostile body of 32 MiB takes
long enough to block all other requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from screening.answer import Mode
from screening.errors import ImageError
from screening.images import ImageLimits, Picture, check_total
from screening.images import accept as accept_picture
from service.admission.upload import Upload
from service.errors import (
    BodyEncoded,
    ClientGone,
    MalformedRequest,
    PictureRefused,
    RequestTooLarge,
    UnsupportedMediaType,
)
from service.request.fields import MAX_NAME, Fields, picture_name
from service.request.fingerprint import question_digest
from service.request.form_body import read_form
from service.request.json_body import read_json

MULTIPART = "multipart/form-data"
JSON = "application/json"

_COMPRESSED = {"gzip": b"\x1f\x8b", "deflate": b"\x78\x9c", "zstd": b"\x28\xb5\x2f\xfd"}
"""First bytes of compressed data. Neither JSON nor multipart can begin with them."""
_UNCOMPRESSED = "Send it uncompressed; picture files are compressed already."


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid request. `pictures` holds original, A, B, C, D; their pixels are not decoded yet."""

    pictures: tuple[Picture, ...]
    mode: Mode
    metadata: dict[str, Any]
    review_below: float | None
    question_digest: bytes
    """Digest of the mode, of `locate` and of the pictures."""
    locate: bool = False


def content_type(request: Request) -> tuple[str, bytes]:
    """Return the media type of the body and, for multipart, its boundary.

    Raises:
        UnsupportedMediaType: the body is neither multipart nor JSON.
        MalformedRequest: a multipart content type has no boundary.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", "").encode("latin-1"))
    name = media_type.decode("latin-1").strip().lower()
    if name == JSON:
        return JSON, b""
    if name != MULTIPART:
        shown = ascii(name[:MAX_NAME]) if name else "missing"
        raise UnsupportedMediaType(f"The content type is {shown}. Send {MULTIPART} or {JSON}.")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 256:
        raise MalformedRequest("The multipart content type has no usable boundary. Let the HTTP library set it.")
    return MULTIPART, boundary


def _refuse_encoded(request: Request) -> None:
    """Refuse a compressed body before reading it. The encoding `identity` means that it is not compressed."""
    named = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    encodings = [name for part in named if (name := part.strip()) not in ("", "identity")]
    if encodings:
        shown = ascii(", ".join(encodings)[:MAX_NAME])
        raise BodyEncoded(f"The body has the content encoding {shown}. {_UNCOMPRESSED}")


async def read_body(request: Request, *, max_bytes: int, upload: Upload) -> bytearray:
    """Read the whole body and count its bytes as they arrive.

    Raises:
        UnsupportedMediaType: the body is compressed.
        RequestTooLarge: the body, or its Content-Length, exceeds `max_bytes`.
        BodyTimeout, UploadTooSlow, Overloaded: see `Upload`.
        ClientGone: the caller disconnected during the upload.
    """
    _refuse_encoded(request)
    limit = f"{max_bytes / 2**20:.1f} MiB" if max_bytes >= 2**20 else f"{max_bytes} bytes"
    too_large = RequestTooLarge(f"The body is larger than {limit}, the limit of this path.")
    claimed = request.headers.get("content-length", "")
    if claimed.isascii() and claimed.isdigit() and (len(claimed) > 18 or int(claimed) > max_bytes):
        raise too_large
    body = bytearray()
    try:
        async with upload:
            async for chunk in request.stream():
                upload.arrived(len(chunk))
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except ClientDisconnect:
        raise ClientGone("the client disconnected during the upload") from None
    return body


def parse(body: bytes | bytearray, media_type: str, boundary: bytes) -> Fields:
    """Parse a complete body.

    Raises:
        UnsupportedMediaType: the body is compressed although it has no Content-Encoding.
        MalformedRequest: the body is not valid JSON or multipart.
        InvalidRequest: a field is missing, unknown, given twice, or wrong.
    """
    for name, magic in _COMPRESSED.items():
        if body.startswith(magic):
            raise BodyEncoded(f"The body is compressed with {name}. {_UNCOMPRESSED}")
    return read_json(body) if media_type == JSON else read_form(bytes(body), boundary)


def accept(fields: Fields, blobs: Sequence[bytes], limits: ImageLimits) -> Submission:
    """Accept or refuse the pictures by their file headers.

    Args:
        blobs: bytes of the five pictures.

    Raises:
        PictureRefused: a picture is not accepted.
    """
    pictures = []
    for index, blob in enumerate(blobs):
        try:
            pictures.append(accept_picture(blob, limits))
        except ImageError as error:
            raise PictureRefused(picture_name(index), error) from error
    try:
        check_total(pictures, limits)
    except ImageError as error:
        raise PictureRefused(None, error) from error
    digest = question_digest(fields.mode, blobs, fields.locate)
    return Submission(tuple(pictures), fields.mode, fields.metadata, fields.review_below, digest, fields.locate)
