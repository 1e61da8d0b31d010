"""Every reply of the teacher, written down before anything else happens with it.

`replies.jsonl` is the only state of an annotation: what to ask next, what was accepted, what it cost are all computed
from it. So a killed run loses what was in flight and nothing else, and no reply is paid for twice.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.annotate.errors import AnnotationError

REPLIES_NAME = "replies.jsonl"

SYNC_EVERY = 5.0
"""Seconds of replies that a power cut may cost."""


class Refusal(BaseModel):
    """Why a question cannot be asked at all, however often one tries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Literal["refused", "picture"]
    """The endpoint refuses the request (a 4xx), or a picture is damaged or over a limit."""
    detail: str


class Reply(BaseModel):
    """One reply to one question about one sample; or, with `refusal`, that there will be none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: str
    task: str
    """`describe original`, `describe A`, …, `reason`."""
    text: str = ""
    finish: str = "stop"
    """As the endpoint says: `stop`, `length`, `content_filter`, …"""
    model: str = ""
    """As the endpoint names itself; often more exact than the name it was asked by."""
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    refusal: Refusal | None = None


class Replies:
    """The open log of one annotation."""

    def __init__(self, handle: int, written: Sequence[Reply]) -> None:
        self._handle = handle
        self._sync_at = time.monotonic() + SYNC_EVERY
        self._by_sample: defaultdict[str, list[Reply]] = defaultdict(list)
        for reply in written:
            self._by_sample[reply.sample].append(reply)

    def of(self, sample: str) -> Sequence[Reply]:
        """What was replied about one sample so far, in order."""
        return self._by_sample.get(sample, ())

    def __iter__(self) -> Iterator[Reply]:
        for replies in self._by_sample.values():
            yield from replies

    def append(self, reply: Reply) -> None:
        """Write one reply as a whole line: it was paid for. A kill of the process from now on does not lose it."""
        data = reply.model_dump_json(exclude_defaults=True).encode() + b"\n"
        while data:
            data = data[os.write(self._handle, data) :]
        if time.monotonic() >= self._sync_at:  # for a power cut; each time would hold up all requests in flight
            os.fsync(self._handle)
            self._sync_at = time.monotonic() + SYNC_EVERY
        self._by_sample[reply.sample].append(reply)


@contextmanager
def open_replies(directory: Path) -> Iterator[Replies]:
    """Open the log of a directory; a last line that a kill has torn is cut off.

    Raises:
        AnnotationError: another process is writing it, or it is damaged elsewhere than in its last line.
    """
    path = directory / REPLIES_NAME
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnnotationError(f"{path} is being written by another annotation; wait for it to end") from None
        yield Replies(handle, _recover(path, handle))
        os.fsync(handle)
    finally:
        os.close(handle)  # also gives up the lock


def _recover(path: Path, handle: int) -> list[Reply]:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    os.ftruncate(handle, whole)
    replies = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            replies.append(Reply.model_validate_json(line))
        except ValidationError as error:
            raise AnnotationError(
                f"{path}, line {number} is not a reply of this version; mend the line or name another --out"
            ) from error
    return replies
