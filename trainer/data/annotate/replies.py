"""Store every reply of the teacher before it is processed.

`replies.jsonl` is the only state of an annotation: the next questions, the accepted samples and the cost are all
computed from it. A killed run loses only the requests in flight, and no stored reply is paid for twice.
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
"""Maximum age in seconds of replies that a power cut may lose. Syncing each one would delay all requests in flight."""


class Refusal(BaseModel):
    """A permanent reason why a question cannot be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Literal["refused", "picture"]
    """The endpoint refuses the request (a 4xx), or a picture is damaged or over a limit."""
    detail: str


class Reply(BaseModel):
    """One reply to one question about one sample, or a `refusal` that says why there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: str
    task: str
    """`describe original`, `describe A`, …, `reason`."""
    text: str = ""
    finish: str = "stop"
    """Reason for the end of the reply, as the endpoint reports it: `stop`, `length`, `content_filter`, …"""
    model: str = ""
    """Name of the model, as the endpoint reports it; often more exact than the requested name."""
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
        """All replies about one sample so far, in order."""
        return self._by_sample.get(sample, ())

    def __iter__(self) -> Iterator[Reply]:
        for replies in self._by_sample.values():
            yield from replies

    def append(self, reply: Reply) -> None:
        """Write one reply to the disk."""
        self._log.append([reply])
        self._by_sample[reply.sample].append(reply)


@contextmanager
def open_replies(directory: Path) -> Iterator[Replies]:
    """Open the log of a directory.

    Raises:
        LogError: another process is writing the log, or a line before the last one is damaged.
    """
    with open_log(directory / REPLIES_NAME, Reply, sync_every=SYNC_EVERY) as log:
        yield Replies(log)
