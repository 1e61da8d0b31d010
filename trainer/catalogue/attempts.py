"""Notes about a block that outlive the process that screens it: which record may have killed the worker.

A picture that crashes a decoder, or does not fit into memory, would kill one worker after the other. After two deaths a
block is therefore screened one record at a time, and a record during which two workers died is rejected.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

_BEGIN = "begin"
_DEATHS_OF_A_BLOCK = 2
_DEATHS_OF_A_RECORD = 2


class Attempts:
    """The notes of one block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._over = False
        self._before = path.stat().st_size if path.exists() else 0
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        # A power cut may leave a damaged line.
        lines = [line for line in text.splitlines() if line == _BEGIN or (line.isascii() and line.isdecimal())]
        last_rows = (line for line, after in pairwise([*lines, _BEGIN]) if line != _BEGIN and after == _BEGIN)
        died = Counter(map(int, last_rows))
        self.careful = lines.count(_BEGIN) >= _DEATHS_OF_A_BLOCK
        """Whether the records are to be screened one at a time."""
        self.deadly = frozenset(row for row, times in died.items() if times >= _DEATHS_OF_A_RECORD)
        """Rows during which workers died."""

    def begin(self) -> None:
        """Note the beginning of an attempt."""
        self._note(_BEGIN)

    def survived(self) -> None:
        """Take back what this attempt noted: it failed, but the process lives. Works on a full disk.

        Later notes are ignored, because the thread of a block that was given up may go on.
        """
        with self._lock:
            self._over = True
            with suppress(FileNotFoundError):  # nothing was noted, or the block was finished after all
                os.truncate(self._path, self._before)

    def at(self, row: int) -> None:
        """Note the row that is worked on, if records are screened one at a time."""
        if self.careful:
            self._note(str(row))

    def _note(self, line: str) -> None:
        with self._lock:
            if self._over:
                return
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, f"{line}\n".encode())
            finally:
                os.close(handle)
