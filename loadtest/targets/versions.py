"""Check that each answer was written by a checkpoint that was served at the time.

There are three independent checks: the answer names a checkpoint; that checkpoint was served at some moment between
request and answer; and the letters of the text are those of that checkpoint (see `canary_checkpoints`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from loadtest.results.record import Exchange


class Finding(StrEnum):
    """A kind of wrong answer."""

    MIXED = "mixed"  # the text contains letters of both checkpoints
    WRONG_VERSION = (
        "wrong version"  # the answer names a checkpoint that was not served then, or has the letters of the other
    )
    UNRECOGNISED = "unrecognised"  # the text is unreadable or has the letters of neither checkpoint


@dataclass(slots=True)
class Served:
    """The times at which each checkpoint was served, derived from the swap requests and their answers."""

    windows: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Digest → start and end of each period, in seconds since the run began."""
    _now: str | None = None

    def start(self, digest: str) -> None:
        """Record the checkpoint that was served at the start of the run."""
        self.windows.setdefault(digest, []).append((-math.inf, math.inf))
        self._now = digest

    def swapped(self, digest: str, ordered: float, answered: float) -> None:
        """Record a swap: either checkpoint may be served until its answer, and only the new one afterwards."""
        if digest == self._now:
            return
        if self._now is not None:
            began, _ = self.windows[self._now][-1]
            self.windows[self._now][-1] = (began, answered)
        self.windows.setdefault(digest, []).append((ordered, math.inf))
        self._now = digest

    def may_be(self, digest: str, sent: float, finished: float) -> bool:
        """Whether a checkpoint was served at a moment between two times."""
        return any(began <= finished and sent <= ended for began, ended in self.windows.get(digest, ()))


def letters_in(text: str, alphabets: Mapping[str, str]) -> set[str]:
    """Digests of all checkpoints whose letters occur in a text."""
    return {digest for digest, letters in alphabets.items() if set(letters) & set(text)}


def examine(exchange: Exchange, served: Served, alphabets: Mapping[str, str]) -> Finding | None:
    """Find out what is wrong with an answer; None for a correct answer and for a failed request.

    Args:
        alphabets: digest → letters of that checkpoint, which no text of the other contains.
    """
    if not exchange.answered or exchange.digest is None:
        return None
    found = letters_in(exchange.reasoning or "", alphabets)
    if len(found) > 1:
        return Finding.MIXED
    if not served.may_be(exchange.digest, exchange.sent, exchange.finished) or found - {exchange.digest}:
        return Finding.WRONG_VERSION
    return None if found and exchange.outcome == "answered" else Finding.UNRECOGNISED


def examine_all(
    exchanges: Sequence[Exchange], served: Served, alphabets: Mapping[str, str]
) -> dict[Finding, list[Exchange]]:
    """All findings with their exchanges."""
    findings: dict[Finding, list[Exchange]] = {finding: [] for finding in Finding}
    for exchange in exchanges:
        if finding := examine(exchange, served, alphabets):
            findings[finding].append(exchange)
    return findings
