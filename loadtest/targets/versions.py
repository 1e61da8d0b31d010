"""Which checkpoint may have written an answer, and whether one did.

Three witnesses, independent of each other: the answer names a checkpoint; it was served at some moment between sending
and answer; and the letters of the text are those of that checkpoint (see `oracles`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from loadtest.results.record import Exchange


class Finding(StrEnum):
    """What is wrong with an answer."""

    MIXED = "mixed"  # letters of both checkpoints in one text
    WRONG_VERSION = "wrong version"  # names a checkpoint that was not served then, or is written in the other's letters
    UNRECOGNISED = "unrecognised"  # written in neither's letters, or unreadable: neither checkpoint writes so


@dataclass(slots=True)
class Served:
    """When each checkpoint was served, by what the orders of swaps and their answers tell from outside."""

    windows: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Digest → from, to; in seconds of the run."""
    _now: str | None = None

    def start(self, digest: str) -> None:
        """What was served when the run began."""
        self.windows.setdefault(digest, []).append((-math.inf, math.inf))
        self._now = digest

    def swapped(self, digest: str, ordered: float, answered: float) -> None:
        """Between the order and its answer either may have been served; afterwards only the new one."""
        if digest == self._now:
            return
        if self._now is not None:
            began, _ = self.windows[self._now][-1]
            self.windows[self._now][-1] = (began, answered)
        self.windows.setdefault(digest, []).append((ordered, math.inf))
        self._now = digest

    def may_be(self, digest: str, sent: float, finished: float) -> bool:
        """Whether it was served at a moment between the two."""
        return any(began <= finished and sent <= ended for began, ended in self.windows.get(digest, ()))


def letters_in(text: str, alphabets: Mapping[str, str]) -> set[str]:
    """Digests of the checkpoints whose letters occur in a text."""
    return {digest for digest, letters in alphabets.items() if set(letters) & set(text)}


def examine(exchange: Exchange, served: Served, alphabets: Mapping[str, str]) -> Finding | None:
    """What is wrong with an answer; None for a sound one and for one that is no answer.

    Args:
        alphabets: digest → its letters, which are in no text of the other.
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
    """Every finding with its exchanges."""
    findings: dict[Finding, list[Exchange]] = {finding: [] for finding in Finding}
    for exchange in exchanges:
        if finding := examine(exchange, served, alphabets):
            findings[finding].append(exchange)
    return findings
