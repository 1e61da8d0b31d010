"""The lines of a batch file → requests, or the reason why a line is none. One bad line never ends a batch."""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from screening_client.errors import InputError
from screening_client.pictures import URL
from screening_client.request import Mode, ScreenRequest

FIELDS = ("id", "original", "generated", "mode", "metadata", "review_below")
STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
LONGEST_LINE = 1 << 20
"""In bytes. Five paths and 4 KiB of metadata need far less; a longer line is not read into memory."""

BINARY = getattr(os, "O_BINARY", 0)
"""Windows would translate line ends otherwise."""

_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that do not say otherwise."""

    mode: Mode | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """A line's own entries take precedence over these."""
    review_below: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input."""

    number: int
    id: str | int | float | None
    """As it stands in the line; None when the line has no usable one."""
    request: ScreenRequest | InputError

    @property
    def name(self) -> str:
        """What messages call this line."""
        return f"line {self.number}" + ("" if self.id is None else f", id {self.id}")


class Source:
    """A file of lines, or a pipe that is read as the lines come."""

    def __init__(self, path: str) -> None:
        """
        Raises:
            InputError: it cannot be opened.
        """
        if URL.match(path):
            raise InputError(f"{path} is a URL; download the file, or give the service's address with --base-url")
        # The descriptor is copied and read without Python's buffers, whose locks would block an end by Ctrl-C.
        try:
            self._fd = _copy_of_stdin() if path in STDIN else os.open(path, os.O_RDONLY | BINARY)
            kind = os.fstat(self._fd).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(0, "it is a directory")
            self.is_regular = stat.S_ISREG(kind)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{path} cannot be opened: {reason}") from error
        self.folder = Path() if path in STDIN else Path(path).parent
        """Where relative paths begin: the file's folder, or the current folder for the standard input."""

    def close(self) -> None:
        """Only when no thread reads any more."""
        os.close(self._fd)

    def count(self) -> int | None:
        """How many lines are not blank; None for a pipe."""
        if not self.is_regular or os.lseek(self._fd, 0, os.SEEK_CUR) != 0:
            return None
        total = sum(1 for line in self.raw_lines() if line is None or line.strip())
        os.lseek(self._fd, 0, os.SEEK_SET)
        return total

    def raw_lines(self) -> Iterator[bytes | None]:
        """Lines without their ends; None in place of one that is too long."""
        rest, too_long = b"", False
        while piece := self._read():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield None if too_long or len(line) > LONGEST_LINE else line
                too_long = False
            if len(rest) > LONGEST_LINE:
                rest, too_long = b"", True
        if rest or too_long:
            yield None if too_long else rest

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _PIECE)
        except OSError as error:
            raise InputError(f"the rest cannot be read: {error.strerror}") from error

    def lines(self, defaults: Defaults) -> Iterator[Line]:
        """The lines that are not blank. An id that an earlier line has as well is refused."""
        seen: dict[str, int] = {}
        for number, text in enumerate(self.raw_lines(), 1):
            if text is not None and not text.strip(b" \t\r\xef\xbb\xbf"):
                continue
            line = parse_line(text, number, self.folder, defaults)
            if line.id is not None and (first := seen.setdefault(str(line.id), number)) != number:
                line = Line(number, line.id, InputError(f"line {first} has the same id"))
            yield line


def _copy_of_stdin() -> int:
    if sys.stdin is None:  # its number may stand for another file by now
        raise OSError(errno.EBADF, "the standard input is closed")
    return os.dup(0)


def parse_line(text: bytes | None, number: int, folder: Path, defaults: Defaults) -> Line:
    """Read one line."""
    try:
        row = _object(text, number)
    except InputError as error:
        return Line(number, None, error)
    identifier = row.get("id")
    if not is_id(identifier):
        return Line(number, None, InputError('"id" is missing; it must be a number or a text that is not empty'))
    try:
        return Line(number, identifier, _request(row, folder, defaults))
    except InputError as error:
        return Line(number, identifier, error)


def is_id(value: object) -> bool:
    """Whether a line can be named by this."""
    if isinstance(value, float):
        return math.isfinite(value)
    return (isinstance(value, str) and value != "") or (isinstance(value, int) and not isinstance(value, bool))


def _object(text: bytes | None, number: int) -> dict[str, Any]:
    if text is None:
        raise InputError(f"the line is longer than {LONGEST_LINE:,} bytes")
    if number == 1 and (text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in text[:4]):
        raise InputError("the file is UTF-16 or UTF-32; save it as UTF-8")
    try:
        row = json.loads(text.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start + 1} of the line is {text[error.start]:#04x}") from error
    except RecursionError as error:
        raise InputError("not JSON of a sensible depth") from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"a line must be a JSON object with {', '.join(FIELDS[:3])}")
    return row


def _request(row: dict[str, Any], folder: Path, defaults: Defaults) -> ScreenRequest:
    _check_text(row)
    if unknown := sorted(row.keys() - set(FIELDS)):
        raise InputError(f"unknown field {', '.join(map(repr, unknown))}; fields are {', '.join(FIELDS)}")
    original, generated, metadata = row.get("original"), row.get("generated"), row.get("metadata")
    if not isinstance(original, str) or not isinstance(generated, list):
        raise InputError("original must be a path and generated a list of four paths")
    if not all(isinstance(path, str) for path in generated):
        raise InputError("generated must be a list of four paths")
    if metadata is not None and not isinstance(metadata, dict):
        raise InputError("metadata must be an object")
    return ScreenRequest(
        original=_picture(original, folder),
        generated=[_picture(path, folder) for path in generated],
        mode=row["mode"] if row.get("mode") is not None else defaults.mode or "cot",
        metadata={**defaults.metadata, **(metadata or {})},
        review_below=row["review_below"] if row.get("review_below") is not None else defaults.review_below,
    )


def _picture(text: str, folder: Path) -> str | Path:
    if URL.match(text):
        return text  # as it is, so that the error names it; `folder` would hide what it was
    return folder / text


def _check_text(row: dict[str, Any]) -> None:
    """JavaScript cuts an emoji in two, and writes one half of it as valid JSON. UTF-8 cannot hold that."""
    for name, value in row.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.start + 1]
            raise InputError(f"{name!a} holds {half!a}, one half of a surrogate pair") from error
        except RecursionError as error:
            raise InputError(f"{name!r} is nested too deeply") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")
