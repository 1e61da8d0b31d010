"""Every reply of the teacher, written down before anything else happens with it.

`replies.jsonl` is the only state of an annotation: what to ask next, what was accepted, what it cost are all computed
from it. So a killed run loses what was in flight and nothing else, and no reply is paid for twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.runs.json_log import JsonLog, open_log

REPLIES_NAME = "replies.jsonl"

SYNC_EVERY = 5.0
"""Seconds of replies that a power cut may cost. Syncing each would hold up all requests in flight."""


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

    def __init__(self, log: JsonLog[Reply]) -> None:
        self._log = log
        self._by_sample: defaultdict[str, list[Reply]] = defaultdict(list)
        for reply in log.written:
            self._by_sample[reply.sample].append(reply)

    def of(self, sample: str) -> Sequence[Reply]:
        """What was replied about one sample so far, in order."""
        return self._by_sample.get(sample, ())

    def __iter__(self) -> Iterator[Reply]:
        for replies in self._by_sample.values():
            yield from replies

    def append(self, reply: Reply) -> None:
        """Write one reply: it was paid for."""
        self._log.append([reply])
        self._by_sample[reply.sample].append(reply)


@contextmanager
def open_replies(directory: Path) -> Iterator[Replies]:
    """Open the log of a directory.

    Raises:
        LogError: another process is writing it, or it is damaged elsewhere than in its last line.
    """
    with open_log(directory / REPLIES_NAME, Reply, sync_every=SYNC_EVERY) as log:
        yield Replies(log)
