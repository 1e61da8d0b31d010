"""Splits a complete multipart body into its parts (RFC 2046, section 5.1.1; RFC 7578).

python-multipart parses streams and refuses some bodies that RFC 2046 allows, with text before the first boundary or
blanks after one. Here the body is in memory, so that a search finds the boundaries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from service.errors import InvalidRequest, MalformedRequest

_MAX_HEADERS = 16384
"""Maximum size of the headers of one part in bytes."""
_MAX_FALSE = 64
"""Maximum number of lines that begin with the boundary but are not delimiters. Random boundaries cause none."""
_END_OF_LINE = re.compile(rb"[ \t]*(\r?\n)")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its headers, with names in lower case, and its bytes."""

    headers: dict[str, bytes]
    data: bytes

    @property
    def name(self) -> str:
        """Name of the form field; empty if there is none."""
        _, options = parse_options_header(self.headers.get("content-disposition", b""))
        return options.get(b"name", b"").decode("utf-8", "replace")

    @property
    def transfer_encoding(self) -> str:
        """Content transfer encoding in lower case, such as `base64`; empty if there is none."""
        return self.headers.get("content-transfer-encoding", b"").decode("latin-1").strip().lower()


def split(body: bytes, boundary: bytes, *, max_parts: int) -> list[Part]:
    """Return the parts of a body. Text before the first boundary and after the last one is ignored.

    Raises:
        MalformedRequest: the body is incomplete, or does not contain the boundary.
        InvalidRequest: the body has more than `max_parts` parts.
    """
    parts: list[Part] = []
    begin: int | None = None
    for start, stop, closing in _delimiters(body, boundary):
        if begin is not None:
            if len(parts) == max_parts:
                raise InvalidRequest(f"The body has more than {max_parts} parts, the maximum for a request.")
            parts.append(_part(body[begin:start]))
        if closing:
            return parts
        begin = stop
    if begin is None:
        raise MalformedRequest(
            "The body contains no line that begins with the boundary in its content type. Let the HTTP library set it."
        )
    raise MalformedRequest("The multipart body ends before its closing boundary. Send the whole body.")


def _delimiters(body: bytes, boundary: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield the start and end of each delimiter with its line breaks, and whether it is the closing one."""
    line, line_break, false = b"--" + boundary, b"", 0
    at = 0 if body.startswith(line) else _next_line(body, line, 0)
    while at >= 0:
        after = at + len(line)
        begin = at - len(line_break) if body.endswith(line_break, 0, at) else at - 1
        if body.startswith(b"--", after):
            yield begin, after + 2, True
            return
        if (end := _END_OF_LINE.match(body, after)) is not None:
            # The body uses the kind of line break that follows its first delimiter.
            line_break = line_break or end[1]
            yield begin, end.end(), False
            after = end.end() - 1  # the next delimiter may begin with this line break
        elif (false := false + 1) > _MAX_FALSE:
            raise MalformedRequest(
                "Too many lines of the body begin with its boundary. Let the HTTP library set the boundary."
            )
        at = _next_line(body, line, after)


def _next_line(body: bytes, line: bytes, begin: int) -> int:
    found = body.find(b"\n" + line, begin)
    return found if found < 0 else found + 1


def _part(raw: bytes) -> Part:
    """Split a part at the empty line between its headers and its data. A part without headers begins with that line."""
    for line_break in (b"\r\n", b"\n"):
        if raw.startswith(line_break):
            return Part({}, raw[len(line_break) :])
    ends = [(at, empty) for empty in (b"\r\n\r\n", b"\n\n") if (at := raw.find(empty, 0, _MAX_HEADERS)) >= 0]
    if not ends:
        raise MalformedRequest("A part of the multipart body has no empty line after its headers.")
    at, empty = min(ends)
    return Part(_headers(raw[:at]), raw[at + len(empty) :])


def _headers(raw: bytes) -> dict[str, bytes]:
    headers: dict[str, bytes] = {}
    name = ""
    for line in raw.split(b"\n"):
        if line[:1] in (b" ", b"\t") and name:  # a folded line continues the previous one
            headers[name] += b" " + line.strip()
            continue
        key, colon, value = line.partition(b":")
        name = key.decode("latin-1").strip().lower()
        if not colon or not name:
            raise MalformedRequest(f"A part of the multipart body has a header without a colon: {line[:40]!a}.")
        headers[name] = value.strip()
    return headers
