"""Parses an application/json body into the fields of a request."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from typing import Any

from pydantic import ValidationError

from screening.answer import Mode
from service.errors import InvalidRequest, MalformedRequest
from service.request import base64_text
from service.request.fields import EXPECTED, MAX_NAME, Fields, PictureUrl, checked_metadata, picture_name
from service.schemas import METADATA_BYTES, PictureAddress, ScreenRequest

_MAX_JSON_VALUES = METADATA_BYTES + 64
"""Maximum number of commas and opening brackets in a JSON body: those of the metadata and of the request's fields."""
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,30}://")
"""The beginning of a URL. Base64 text contains no colon."""


def utf8_of(body: bytes | bytearray) -> bytes | bytearray:
    """Return the body without its UTF-8 byte order mark.

    Raises:
        MalformedRequest: the body is UTF-16 or UTF-32.
    """
    encoding = json.detect_encoding(bytes(body[:4]))
    if encoding == "utf-8-sig":
        return body[len(BOM_UTF8) :]
    if encoding != "utf-8":
        name = encoding[: len("utf-16")].upper()
        raise MalformedRequest(f"The JSON body is encoded as {name}, judging by its first bytes. Send UTF-8.")
    return body


def read_json(body: bytes | bytearray) -> Fields:
    """Parse a complete JSON body.

    Raises:
        MalformedRequest: the body is not JSON in UTF-8.
        InvalidRequest: a field is missing, unknown, given twice, or wrong.
    """
    body = utf8_of(body)
    # The parser builds the whole tree under the interpreter lock before the schema can refuse it. So the number of
    # values is estimated first. Base64 text contains none of these characters.
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_VALUES:
        raise MalformedRequest("The JSON body has more values than a request can have. Send the fields of one request.")
    try:
        request = ScreenRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    _refuse_repeated(body)
    pictures = [
        _picture(value, picture_name(index)) for index, value in enumerate((request.original, *request.generated))
    ]
    metadata = checked_metadata(request.metadata)
    return Fields(tuple(pictures), Mode(request.mode), metadata, request.review_below, request.locate)


def _picture(value: str | PictureAddress, name: str) -> bytes | PictureUrl:
    if isinstance(value, PictureAddress):
        return PictureUrl(value.url)
    if _ADDRESS.match(value):
        return PictureUrl(value)
    try:
        return base64_text.decode(value)
    except base64_text.NotBase64 as error:
        raise InvalidRequest(f"{name}: {error}.", picture=name) from None


def _refusal(error: ValidationError) -> InvalidRequest | MalformedRequest:
    """Return an error for the first fault, with the name of the field as the request writes it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return MalformedRequest(f"The body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    path = [part for part in first["loc"] if part not in ("text", "address")]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")[:MAX_NAME]
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"Unknown field {where!a}. {EXPECTED}")
    return InvalidRequest(f"{where or 'the body'}: {first['msg']}. {EXPECTED}")


def _refuse_repeated(body: bytes | bytearray) -> None:
    """Refuse a field that is given twice, because JSON parsers differ in which of the two they use."""
    names = [*ScreenRequest.model_fields, *PictureAddress.model_fields]
    # A name can contain escapes: "\\u006f" is "o".
    if b"\\u" not in body and all(body.count(b'"%s"' % name.encode()) <= 1 for name in names):
        return
    # The metadata may contain the same names, so only a parser that keeps every pair can tell.
    fields: tuple[tuple[str, Any], ...] = json.loads(body, object_pairs_hook=tuple)
    _refuse_twice(fields, "")
    pictures = [value for name, value in fields if name == "original"]
    pictures += [value for name, values in fields if name == "generated" for value in values]
    for picture in pictures:
        if isinstance(picture, tuple):
            _refuse_twice(picture, "a picture's ")


def _refuse_twice(pairs: tuple[tuple[str, Any], ...], whose: str) -> None:
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InvalidRequest(f"{whose}{repeated[0]} is given twice.")
