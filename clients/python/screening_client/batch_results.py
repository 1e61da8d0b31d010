"""Writes the results of a batch, one line per answer, and reads them again when the batch is continued.

Pipes, terminals and other special files are written but never read.
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
"""Paths of files that the shell opened. Their existing contents are neither read nor truncated."""
_BEGINNING = b'{"id"'
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY


class Results:
    """The file of results. Every answer is written as one complete line, so that a killed run leaves complete lines.

    If the disk becomes full in the middle of a line, the incomplete line is removed.
    """

    def __init__(self, path: str) -> None:
        """
        Raises:
            InputError: the file cannot be written, or contains something other than results. It is left unchanged.
        """
        self._path = path
        self.outcomes: dict[str, str] = {}
        """Outcome of the last answer for each id in the file."""
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
            OSError: the disk is full, or the program at the other end of the pipe has ended (`BrokenPipeError`).
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
        """Prevent a second batch on the same file, which would repeat all requests and remove unfinished lines.

        The lock ends with the process. There is none on Windows and on file systems without locks.
        """
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another batch is writing to {self._path}; wait until it ends, or choose another file with --out"
            ) from error
        except OSError:  # a file system without locks
            return

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # another program has made the pipe non-blocking
                select.select([], [self._fd], [])

    def _read(self) -> None:
        """Read the earlier outcomes. An incomplete last line is removed."""
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
                f"the last line of {self._path} is not the beginning of a result; choose another file with --out"
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
                f"line {number} of {self._path} is not a result; choose another file with --out, or correct the line"
            )
        return str(row["id"]), str(row["screening"].get("outcome"))


def _copy_of_stdout() -> int:
    if sys.stdout is None:  # another file may use its descriptor by now
        raise OSError(errno.EBADF, "the standard output is closed")
    return os.dup(1)


def _unusable(path: str, error: OSError | ValueError) -> InputError:
    return InputError(f"{path} cannot be used: {error.strerror if isinstance(error, OSError) else error}")
