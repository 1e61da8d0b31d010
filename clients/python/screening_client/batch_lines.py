"""Reads the lines of a batch file. Each line becomes a request, or an error that does not end the batch."""

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

FIELDS = ("id", "original", "generated", "mode", "metadata", "review_below", "locate")
STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
LONGEST_LINE = 1 << 20
"""Maximum length of a line in bytes, which keeps memory small. Five paths and 4 KiB of metadata need far less."""

BINARY = getattr(os, "O_BINARY", 0)
"""Flag for opening files, without which Windows translates line breaks."""

_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values for lines that give none."""

    mode: Mode | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Metadata that is merged with that of each line; the line's entries take precedence."""
    review_below: float | None = None
    locate: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input."""

    number: int
    id: str | int | float | None
    """The id as the line gives it; None if the line has no valid id."""
    request: ScreenRequest | InputError

    @property
    def name(self) -> str:
        """Name of the line in messages."""
        return f"line {self.number}" + ("" if self.id is None else f", id {self.id}")


class Source:
    """A file of lines, or a pipe whose lines are read as they arrive."""

    def __init__(self, path: str) -> None:
        """
        Raises:
            InputError: the file cannot be opened.
        """
        if URL.match(path):
            raise InputError(f"{path} is a URL; download the file, or give the service's address with --base-url")
        # The descriptor is read without Python's buffers, because their locks would block Ctrl-C.
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
        """Base directory of relative paths: that of the file, or the current directory for the standard input."""

    def close(self) -> None:
        """Close the file. No thread may read it any more."""
        os.close(self._fd)

    def count(self) -> int | None:
        """Return the number of lines that are not blank; None for a pipe."""
        if not self.is_regular or os.lseek(self._fd, 0, os.SEEK_CUR) != 0:
            return None
        total = sum(1 for line in self.raw_lines() if line is None or line.strip())
        os.lseek(self._fd, 0, os.SEEK_SET)
        return total

    def raw_lines(self) -> Iterator[bytes | None]:
        """Yield the lines without their line breaks, and None in place of a line that is too long."""
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
        """Yield the lines that are not blank. A line with the same id as an earlier line becomes an error."""
        seen: dict[str, int] = {}
        for number, text in enumerate(self.raw_lines(), 1):
            if text is not None and not text.strip(b" \t\r\xef\xbb\xbf"):
                continue
            line = parse_line(text, number, self.folder, defaults)
            if line.id is not None and (first := seen.setdefault(str(line.id), number)) != number:
                line = Line(number, line.id, InputError(f"line {first} has the same id"))
            yield line


def _copy_of_stdin() -> int:
    if sys.stdin is None:  # another file may use its descriptor by now
        raise OSError(errno.EBADF, "the standard input is closed")
    return os.dup(0)


def parse_line(text: bytes | None, number: int, folder: Path, defaults: Defaults) -> Line:
    """Parse one line."""
    try:
        row = _object(text, number)
    except InputError as error:
        return Line(number, None, error)
    identifier = row.get("id")
    if not is_id(identifier):
        return Line(number, None, InputError('"id" must be a number or a string that is not empty'))
    try:
        return Line(number, identifier, _request(row, folder, defaults))
    except InputError as error:
        return Line(number, identifier, error)


def is_id(value: object) -> bool:
    """Whether a value is a valid id of a line."""
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
        raise InputError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"a line must be a JSON object with {', '.join(FIELDS[:3])}")
    return row


def _request(row: dict[str, Any], folder: Path, defaults: Defaults) -> ScreenRequest:
    _check_text(row)
    if unknown := sorted(row.keys() - set(FIELDS)):
        raise InputError(f"unknown field {', '.join(map(repr, unknown))}; the fields are {', '.join(FIELDS)}")
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
        locate=row["locate"] if row.get("locate") is not None else defaults.locate and row.get("mode") != "direct",
    )


def _picture(text: str, folder: Path) -> str | Path:
    if URL.match(text):
        return text  # unchanged, so that the error of the client shows the URL
    return folder / text


def _check_text(row: dict[str, Any]) -> None:
    """Refuse half of a surrogate pair, which UTF-8 cannot encode. JavaScript can split an emoji into such halves."""
    for name, value in row.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.start + 1]
            raise InputError(f"{name!a} contains {half!a}, one half of a surrogate pair") from error
        except RecursionError as error:
            raise InputError(f"{name!r} is nested too deeply") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")
