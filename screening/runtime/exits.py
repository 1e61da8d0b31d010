"""Exit statuses of all command lines, and the detection of a full disk and of a closed output.

Libraries report a full disk in different ways: some raise an `OSError` without a path, others raise another error whose
text contains the system's message.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

STOPPED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as in shells."""
DISK_FULL = 1
"""Exit status if the disk is full. The same command can be run again."""
UNFINISHED = 1
"""Exit status when a command stopped before its end. Run again, the same command continues."""
BAD_INPUT = 2
"""Exit status when an argument or an input file cannot be used."""
CLOSED_PIPE = 128 + signal.SIGPIPE
"""Exit status when the program that read the output has ended, as in `… | head`."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk. EFBIG is a limit on the size of files (`ulimit -f`, or that of the file system)."""
_WORDS = {os.strerror(number).lower(): number for number in _FULL} | {
    "database or disk is full": errno.ENOSPC,  # SQLite
    "pytorchstreamwriter failed writing file": errno.ENOSPC,  # torch.save
}
_IN_RUST = re.compile(r"\(os error (\d+)\)")
"""The end of error messages of safetensors and tokenizers."""


def run_while_output_is_read(run: Callable[[], int]) -> int:
    """Run a program, and end it without a message when the program that read its output has ended.

    Returns:
        What `run` returns, or `CLOSED_PIPE`.
    """
    _open_closed_streams()
    try:
        status = run()
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # argparse ends `--help` by SystemExit
        if not _output_is_closed():
            raise
        # What is still buffered would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return status


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that was closed before the start, which Python then calls None.

    Otherwise the next file or socket would get its number, and whatever a library prints would be written into it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115, PTH123
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _output_is_closed() -> bool:
    """Whether the program that read this one's output has ended. Other pipes can break too."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    state = select.poll()
    try:
        state.register(sys.stdout, 0)
    except OSError:  # a test's output is not a file
        return False
    return any(event & select.POLLERR for _, event in state.poll(0))


def disk_full(error: BaseException, out: Path | None = None) -> str | None:
    """Return a message for an error that was caused by a full disk; None for any other error.

    Args:
        out: path that the command was writing to, for errors that do not contain one.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return _sentence(one.filename2 or one.filename or out, one.errno)
        said = str(one).lower()
        named = (number for words, number in _WORDS.items() if words in said)
        in_rust = (number for number in map(int, _IN_RUST.findall(said)) if number in _FULL)
        if number := next(chain(named, in_rust), None):
            return _sentence(out, number)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _sentence(path: object, number: int) -> str:
    remedy = "raise the limit on the size of files" if number == errno.EFBIG else "free some space"
    return f"{path or 'a file'} cannot be written: {os.strerror(number)}; {remedy} and run the same command again"
