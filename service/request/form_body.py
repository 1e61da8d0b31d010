"""Parses a multipart/form-data body into the fields of a request."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import from_json

from screening.answer import Mode
from screening.task import OPTIONS
from service.errors import InvalidRequest
from service.request import base64_text
from service.request.fields import EXPECTED, MAX_NAME, Fields, checked_metadata, checked_threshold, picture_name
from service.request.multipart import Part, split
from service.schemas import METADATA_BYTES

_TEXT_FIELDS = ("mode", "locate", "metadata", "review_below")
_MAX_PARTS = 1 + len(OPTIONS) + len(_TEXT_FIELDS)
_GENERATED = re.compile(r"generated(\[\]|\[(\d{1,4})\])?")


def read_form(body: bytes, boundary: bytes) -> Fields:
    """Parse a complete form.

    Raises:
        MalformedRequest: the body is not valid multipart with this boundary.
        InvalidRequest: a field is missing, unknown, given twice, or wrong.
    """
    originals: list[bytes] = []
    generated: list[tuple[str, bytes]] = []
    texts: dict[str, str] = {}
    for part in split(body, boundary, max_parts=_MAX_PARTS):
        name = part.name
        if name == "original":
            originals.append(_content(part, name))
        elif _GENERATED.fullmatch(name):
            generated.append((name, _content(part, name)))
        elif not name:
            raise InvalidRequest(f"A part of the form has no field name. {EXPECTED}")
        elif name not in _TEXT_FIELDS:
            raise InvalidRequest(f"Unknown field {name[:MAX_NAME]!a}. {EXPECTED}")
        elif name in texts:
            raise InvalidRequest(f"{name} is given twice.")
        else:
            texts[name] = _text(part, name)
    if len(originals) != 1:
        raise InvalidRequest(f"original: {len(originals)} files were sent; send exactly one.")
    return Fields(
        (originals[0], *_in_order(generated)),
        _mode(texts.get("mode")),
        _metadata(texts.get("metadata", "")),
        _threshold(texts.get("review_below", "")),
        _switch(texts.get("locate", "false")),
    )


def _in_order(generated: list[tuple[str, bytes]]) -> list[bytes]:
    """Return the four generated pictures in the order of the indexes in their names, or else in order of arrival."""
    if len(generated) != len(OPTIONS):
        raise InvalidRequest(
            f"generated: {len(generated)} files were sent; send exactly four, in the order A, B, C, D."
        )
    names = [name for name, _ in generated]
    indexes = [int(match[2]) for name in names if (match := _GENERATED.fullmatch(name)) and match[2]]
    if not indexes:
        return [data for _, data in generated]
    expected = [picture_name(1 + index) for index in range(len(OPTIONS))]
    if len(indexes) < len(names):
        raise InvalidRequest(
            f"generated: some of the names {', '.join(names)} have an index and others do not. Use one form for all."
        )
    if sorted(indexes) != list(range(len(OPTIONS))):
        raise InvalidRequest(f"generated: the fields are {', '.join(names)}; they must be {', '.join(expected)}.")
    return [data for _, (_, data) in sorted(zip(indexes, generated, strict=True))]


def _content(part: Part, name: str) -> bytes:
    """Return the bytes of a file. Mail libraries encode them as base64."""
    if part.transfer_encoding == "base64":
        try:
            return base64_text.decode(part.data.decode("latin-1"))
        except base64_text.NotBase64 as error:
            raise InvalidRequest(f"{name}: {error}.", picture=name) from None
    if part.transfer_encoding not in ("", "binary", "8bit", "7bit"):
        encoding = part.transfer_encoding[:MAX_NAME]
        raise InvalidRequest(f"{name}: the content transfer encoding {encoding!a} is not supported. Send raw bytes.")
    return part.data


def _text(part: Part, name: str) -> str:
    data = _content(part, name)
    if len(data) > METADATA_BYTES:
        raise InvalidRequest(f"{name} has more than {METADATA_BYTES} bytes, which is the limit.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is not UTF-8 text.") from None


def _mode(text: str | None) -> Mode:
    try:
        return Mode(text.strip()) if text is not None else Mode.COT
    except ValueError:
        raise InvalidRequest(f"mode: {(text or '')[:MAX_NAME]!a} is not a mode. Send cot or direct.") from None


def _switch(text: str) -> bool:
    if (value := text.strip().lower()) not in ("true", "false"):
        raise InvalidRequest(f"locate: {text[:MAX_NAME]!a} is neither true nor false.")
    return value == "true"


def _metadata(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"metadata is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("metadata is not a JSON object.")
    return checked_metadata(value)


def _threshold(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return checked_threshold(from_json(text.strip(), allow_inf_nan=False))
    except ValueError:
        raise InvalidRequest(f"review_below: {text[:MAX_NAME]!a} is not a number from 0 to 1.") from None
