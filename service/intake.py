"""From a stranger's body to five pictures whose headers were accepted.

The body is read under a byte limit and at a minimum pace (`service.upload`) whatever Content-Length claims, kept in
memory (never on disk), and only then parsed; parsing runs in a thread, because a hostile 32 MiB takes long enough to
hold up everybody else.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from screening.answer import Mode
from screening.errors import ImageError
from screening.images import ImageLimits, Picture, check_total, inspect
from screening.task import OPTIONS
from service.errors import (
    ClientGone,
    InvalidRequest,
    MalformedRequest,
    PictureRefused,
    RequestTooLarge,
    UnsupportedMediaType,
)
from service.fingerprint import content_digest
from service.schemas import METADATA_BYTES, ScreenRequest
from service.upload import Upload

MULTIPART = "multipart/form-data"
JSON = "application/json"

_TEXT_FIELDS = ("mode", "metadata")
_MAX_PARTS = 1 + len(OPTIONS) + len(_TEXT_FIELDS)
_MAX_JSON_VALUES = METADATA_BYTES + 64
"""Commas and opening brackets in a JSON body: the metadata's, and room for the request's own fields."""
_MAX_NAME = 80
"""Characters of a caller's own text that an error repeats."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that was understood. `pictures` are original, A, B, C, D; no pixel is decoded yet."""

    pictures: tuple[Picture, ...]
    mode: Mode
    metadata: dict[str, Any]
    content: bytes
    """Digest of mode and pictures: what is asked."""


def picture_name(index: int) -> str:
    """How a request names its picture: 0 is `original`, 1-4 are `generated[0]`-`generated[3]`."""
    return "original" if index == 0 else f"generated[{index - 1}]"


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
        shown = ascii(name[:_MAX_NAME]) if name else "missing"
        raise UnsupportedMediaType(f"The content type is {shown}. Send {MULTIPART} or {JSON}.")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 256:
        raise MalformedRequest("The multipart content type has no usable boundary. Let the HTTP library set it.")
    return MULTIPART, boundary


async def read_body(request: Request, *, max_bytes: int, upload: Upload) -> bytearray:
    """Read the body, counting bytes as they arrive.

    Raises:
        RequestTooLarge: Content-Length says so, or more bytes than `max_bytes` arrived.
        BodyTimeout, UploadTooSlow, Overloaded: see `Upload`.
        ClientGone: the caller hung up on the way.
    """
    too_large = RequestTooLarge(f"The body is over {max_bytes / 2**20:.1f} MiB. Send smaller pictures.")
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


def parse(body: bytes | bytearray, media_type: str, boundary: bytes, limits: ImageLimits) -> Submission:
    """Understand a whole body and accept or refuse its pictures by their headers.

    Raises:
        MalformedRequest: not the encoding it claims to be.
        InvalidRequest: a field is missing, unknown, given twice, or wrong.
        PictureRefused: a picture is not accepted.
    """
    blobs, mode, metadata = _from_json(body) if media_type == JSON else _from_multipart(body, boundary)
    pictures = []
    for index, blob in enumerate(blobs):
        try:
            pictures.append(inspect(blob, limits))
        except ImageError as error:
            raise PictureRefused(picture_name(index), error) from error
    try:
        check_total(pictures, limits)
    except ImageError as error:
        raise PictureRefused(None, error) from error
    return Submission(tuple(pictures), mode, metadata, content_digest(mode, blobs))


def _from_json(body: bytes | bytearray) -> tuple[list[bytes], Mode, dict[str, Any]]:
    # The parser builds the whole tree before the schema refuses it, holding the interpreter lock: count what it would
    # build. Base64 has none of these characters.
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_VALUES:
        raise MalformedRequest("The JSON body has more values than a request can have. Send only the fields of one.")
    try:
        request = ScreenRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedRequest(f"The body is not JSON: {first['msg']}.") from None
        where = ".".join(str(part) for part in first["loc"])[:_MAX_NAME] or "the body"
        raise InvalidRequest(f"{where}: {first['msg']}.") from None
    texts = [request.original, *request.generated]
    blobs = [_base64(text, picture_name(index)) for index, text in enumerate(texts)]
    return blobs, Mode(request.mode), _checked_metadata(request.metadata)


def _base64(text: str, name: str) -> bytes:
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidRequest(f"{name}: the data: URL is not base64.")
    try:
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n\f\v"), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{name}: the text is not base64 of a picture's bytes.") from None


@dataclass(slots=True)
class _Part:
    """One part of a multipart body while it is read."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)

    @property
    def name(self) -> str:
        for key, value in self.headers:
            if key.lower() == b"content-disposition":
                _, options = parse_options_header(value)
                return options.get(b"name", b"").decode("utf-8", "replace")
        return ""


def _from_multipart(body: bytes | bytearray, boundary: bytes) -> tuple[list[bytes], Mode, dict[str, Any]]:
    originals: list[bytes] = []
    generated: list[bytes] = []
    texts: dict[str, str] = {}
    for part in _parts(bytes(body), boundary):
        name = part.name
        if name == "original":
            originals.append(bytes(part.data))
        elif name in ("generated", "generated[]"):
            generated.append(bytes(part.data))
        elif name not in _TEXT_FIELDS:
            raise InvalidRequest(f"{name[:_MAX_NAME]!a} is no field of this request.")
        elif name in texts:
            raise InvalidRequest(f"{name} is given twice.")
        else:
            texts[name] = _text(part, name)
    if len(originals) != 1:
        raise InvalidRequest(f"original: {len(originals)} files were sent; send exactly one.")
    if len(generated) != len(OPTIONS):
        raise InvalidRequest(
            f"generated: {len(generated)} files were sent; send exactly four, in the order A, B, C, D."
        )
    return originals + generated, _mode(texts.get("mode")), _metadata(texts.get("metadata"))


def _parts(body: bytes, boundary: bytes) -> Sequence[_Part]:
    """Split a multipart body (RFC 7578).

    Raises:
        MalformedRequest: it breaks off, or is not divided by this boundary.
        InvalidRequest: it has more parts than the request has fields.
    """
    parts: list[_Part] = []
    key, value = bytearray(), bytearray()
    ended = False

    def begin() -> None:
        if len(parts) == _MAX_PARTS:
            raise InvalidRequest(f"The body has more than {_MAX_PARTS} parts: one original, four generated, two texts.")
        parts.append(_Part())

    def header_end() -> None:
        parts[-1].headers.append((bytes(key), bytes(value)))
        key.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_part_data": lambda data, start, stop: parts[-1].data.extend(memoryview(data)[start:stop]),
            "on_header_field": lambda data, start, stop: key.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end,
            "on_end": end,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedRequest(f"The body is not multipart with the boundary of its content type: {error}") from None
    if not ended:
        raise MalformedRequest("The multipart body breaks off before its closing boundary. Send the whole body.")
    return parts


def _text(part: _Part, name: str) -> str:
    if len(part.data) > METADATA_BYTES:
        raise InvalidRequest(f"{name} has more than {METADATA_BYTES} bytes.")
    try:
        return part.data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is not UTF-8 text.") from None


def _mode(text: str | None) -> Mode:
    try:
        return Mode(text.strip()) if text is not None else Mode.COT
    except ValueError:
        raise InvalidRequest(f"mode: {(text or '')[:_MAX_NAME]!a} is neither cot nor direct.") from None


def _metadata(text: str | None) -> dict[str, Any]:
    if text is None or not text.strip():
        return {}
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"metadata is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("metadata is not a JSON object.")
    return _checked_metadata(value)


def _checked_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is too large, and what could be read but not be written back as JSON (1e999, huge integers)."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        raise InvalidRequest("metadata holds a number or text that JSON cannot carry back.") from None
    if size > METADATA_BYTES:
        raise InvalidRequest(f"metadata has {size} bytes as JSON; the limit is {METADATA_BYTES}.")
    return value
