"""The file of results: one line for each answer, appended as it comes, and read again to continue.

A pipe, a terminal or another special file is only written to.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from screening_client.batch_lines import BINARY, is_id
from screening_client.errors import InputError
from screening_client.result import Screening

if sys.platform != "win32":
    import fcntl

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

_ALREADY_OPEN = ("/dev/std", "/dev/fd/", "/proc/")
"""Paths that stand for what the shell opened. What a file there holds already is not ours to read or cut."""
_BEGINNING = b'{"id"'
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY


class Results:
    """Where the answers go. Every answer is one write of a whole line, so that a killed run leaves whole lines.

    A disk that gets full can take a part of a line. It is cut off again.
    """

    def __init__(self, path: str) -> None:
        """
        Raises:
            InputError: it cannot be written, or it holds something else than results. Nothing is changed then.
        """
        self._path = path
        self.outcomes: dict[str, str] = {}
        """The outcome of the last answer for each id that stands in the file."""
        try:
            self._fd = _copy_of_stdout() if path in STDOUT else os.open(path, _APPEND, 0o666)
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from error
        is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._can_continue = is_file and path not in STDOUT and not path.startswith(_ALREADY_OPEN)
        if self._can_continue:
            self._lock()
            self._read()

    def add(self, identifier: object, screening: Screening) -> None:
        """Append an answer.

        Raises:
            OSError: the reader of the pipe has ended (`BrokenPipeError`), or the disk is full.
        """
        line = json.dumps({"id": identifier, "screening": screening.raw}).encode() + b"\n"
        end = os.fstat(self._fd).st_size
        try:
            self._write(line)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._can_continue:
                os.ftruncate(self._fd, end)
            raise OSError(error.errno, error.strerror, self._path) from error

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        """Keep a second batch out: it would ask everything again, and take a line in the making for a torn one.

        The lock ends with the process. Windows, and file systems without locks, have none.
        """
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another batch writes to {self._path} at the moment; wait for its end, or name another file with --out"
            ) from error
        except OSError:  # a file system without locks
            return

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # a pipe that another program made non-blocking
                select.select([], [self._fd], [])

    def _read(self) -> None:
        """Find what was answered before. A last line that was not written to its end is cut off."""
        whole, rest = 0, b""
        try:
            with Path(self._path).open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        rest = line
                        break
                    whole += len(line)
                    identifier, outcome = self._parse(line, number)
                    self.outcomes[identifier] = outcome
        except OSError as error:
            raise _unusable(self._path, error) from error
        if rest and not rest.startswith(_BEGINNING[: len(rest)]):
            raise InputError(
                f"the last line of {self._path} is not the beginning of a result; name another file with --out"
            )
        if rest:
            os.ftruncate(self._fd, whole)

    def _parse(self, line: bytes, number: int) -> tuple[str, str]:
        row: Any
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not is_id(row.get("id")) or not isinstance(row.get("screening"), dict):
            raise InputError(
                f"line {number} of {self._path} is not a result; name another file with --out, or mend the line"
            )
        return str(row["id"]), str(row["screening"].get("outcome"))


def _copy_of_stdout() -> int:
    if sys.stdout is None:  # its number may stand for another file by now
        raise OSError(errno.EBADF, "the standard output is closed")
    return os.dup(1)


def _unusable(path: str, error: OSError | ValueError) -> InputError:
    return InputError(f"{path} cannot be used: {error.strerror if isinstance(error, OSError) else error}")
