"""From a stranger's body to five pictures whose headers were accepted.

The body is read under a byte limit and at a minimum pace (`service.admission.upload`) whatever Content-Length claims,
kept in memory (never on disk), and only then parsed; parsing runs in a thread, because a hostile 32 MiB takes long
enough to hold up everybody else.
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
from service.request.fingerprint import content_digest
from service.request.form_body import read_form
from service.request.json_body import read_json

MULTIPART = "multipart/form-data"
JSON = "application/json"

_COMPRESSED = {"gzip": b"\x1f\x8b", "deflate": b"\x78\x9c", "zstd": b"\x28\xb5\x2f\xfd"}
"""How such data begins; neither JSON nor multipart can."""
_UNCOMPRESSED = "Send it uncompressed: pictures are compressed already."


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that was understood. `pictures` are original, A, B, C, D; no pixel is decoded yet."""

    pictures: tuple[Picture, ...]
    mode: Mode
    metadata: dict[str, Any]
    review_below: float | None
    content: bytes
    """Digest of mode and pictures: what is asked."""


def content_type(request: Request) -> tuple[str, bytes]:
    """The body's media type and, for multipart, its boundary.

    Raises:
        UnsupportedMediaType: neither multipart nor JSON.
        MalformedRequest: multipart without a boundary.
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
    """Refuse a compressed body before it is read. `identity` means that it is not compressed."""
    named = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    encodings = [name for part in named if (name := part.strip()) not in ("", "identity")]
    if encodings:
        shown = ascii(", ".join(encodings)[:MAX_NAME])
        raise BodyEncoded(f"The body has the content encoding {shown}. {_UNCOMPRESSED}")


async def read_body(request: Request, *, max_bytes: int, upload: Upload) -> bytearray:
    """Read the body, counting bytes as they arrive.

    Raises:
        UnsupportedMediaType: it is compressed.
        RequestTooLarge: Content-Length says so, or more bytes than `max_bytes` arrived.
        BodyTimeout, UploadTooSlow, Overloaded: see `Upload`.
        ClientGone: the caller hung up on the way.
    """
    _refuse_encoded(request)
    limit = f"{max_bytes / 2**20:.1f} MiB" if max_bytes >= 2**20 else f"{max_bytes} bytes"
    too_large = RequestTooLarge(f"The body is larger than {limit}, the most that this path takes.")
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
        raise ClientGone("the client hung up while it sent the body") from None
    return body


def parse(body: bytes | bytearray, media_type: str, boundary: bytes) -> Fields:
    """Understand a whole body.

    Raises:
        UnsupportedMediaType: it is compressed, without saying so.
        MalformedRequest: not the encoding it claims to be.
        InvalidRequest: a field is missing, unknown, given twice, or wrong.
    """
    for name, magic in _COMPRESSED.items():
        if body.startswith(magic):
            raise BodyEncoded(f"The body is compressed with {name}. {_UNCOMPRESSED}")
    return read_json(body) if media_type == JSON else read_form(bytes(body), boundary)


def accept(fields: Fields, blobs: Sequence[bytes], limits: ImageLimits) -> Submission:
    """Accept or refuse pictures by their headers.

    Args:
        blobs: the bytes of the five pictures.

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
    return Submission(
        tuple(pictures), fields.mode, fields.metadata, fields.review_below, content_digest(fields.mode, blobs)
    )
