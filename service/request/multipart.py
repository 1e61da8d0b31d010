"""Splits a whole multipart body into its parts (RFC 2046, section 5.1.1; RFC 7578).

python-multipart reads streams and refuses what RFC 2046 allows: text before the first boundary and blanks behind one.
Here the body is in memory, so that its boundaries can be looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from service.errors import InvalidRequest, MalformedRequest

_MAX_HEADERS = 16384
"""Bytes of the headers of one part."""
_MAX_FALSE = 64
"""Lines that begin like the boundary and go on otherwise. Random boundaries have none."""
_END_OF_LINE = re.compile(rb"[ \t]*(\r?\n)")


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its headers, with names in lower case, and its bytes."""

    headers: dict[str, bytes]
    data: bytes

    @property
    def name(self) -> str:
        """Of the form's field; empty when there is none."""
        _, options = parse_options_header(self.headers.get("content-disposition", b""))
        return options.get(b"name", b"").decode("utf-8", "replace")

    @property
    def transfer_encoding(self) -> str:
        """`base64`, `binary`, …; empty when there is none."""
        return self.headers.get("content-transfer-encoding", b"").decode("latin-1").strip().lower()


def split(body: bytes, boundary: bytes, *, max_parts: int) -> list[Part]:
    """The parts of a body. What stands before the first boundary and behind the last is ignored.

    Raises:
        MalformedRequest: it breaks off, or is not divided by this boundary.
        InvalidRequest: it has more parts than `max_parts`.
    """
    parts: list[Part] = []
    begin: int | None = None
    for start, stop, closing in _delimiters(body, boundary):
        if begin is not None:
            if len(parts) == max_parts:
                raise InvalidRequest(f"The body has more than {max_parts} parts, which is more than a request has.")
            parts.append(_part(body[begin:start]))
        if closing:
            return parts
        begin = stop
    if begin is None:
        raise MalformedRequest(
            "The body is not multipart with the boundary of its content type: no line begins with it."
        )
    raise MalformedRequest("The multipart body breaks off before its closing boundary. Send the whole body.")


def _delimiters(body: bytes, boundary: bytes) -> Iterator[tuple[int, int, bool]]:
    """Begin and end of each delimiter, with the line breaks around it, and whether it is the closing one."""
    line, line_break, false = b"--" + boundary, b"", 0
    at = 0 if body.startswith(line) else _next_line(body, line, 0)
    while at >= 0:
        after = at + len(line)
        begin = at - len(line_break) if body.endswith(line_break, 0, at) else at - 1
        if body.startswith(b"--", after):
            yield begin, after + 2, True
            return
        if (end := _END_OF_LINE.match(body, after)) is not None:
            # The whole body has the line breaks of its first delimiter.
            line_break = line_break or end[1]
            yield begin, end.end(), False
            after = end.end() - 1  # the next delimiter may begin with this line's end
        elif (false := false + 1) > _MAX_FALSE:
            raise MalformedRequest("Too many lines of the body begin like its boundary. Let the HTTP library set it.")
        at = _next_line(body, line, after)


def _next_line(body: bytes, line: bytes, begin: int) -> int:
    found = body.find(b"\n" + line, begin)
    return found if found < 0 else found + 1


def _part(raw: bytes) -> Part:
    """Headers and data are divided by an empty line; a part without headers begins with it."""
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
        if line[:1] in (b" ", b"\t") and name:  # a folded line goes on with the one before
            headers[name] += b" " + line.strip()
            continue
        key, colon, value = line.partition(b":")
        name = key.decode("latin-1").strip().lower()
        if not colon or not name:
            raise MalformedRequest(f"A part of the multipart body has a header without a colon: {line[:40]!a}.")
        headers[name] = value.strip()
    return headers
