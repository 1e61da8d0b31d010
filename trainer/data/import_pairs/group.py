"""Pairs → questions of four.

A picture is its bytes and not its name: many shops keep a copy of the original with each generated picture, and the
copies are one original. The pictures of one original are put into an order that follows from a seed and their bytes,
and cut into fours. So the letters carry no information, the order of the file changes nothing, and more originals
change no question. What does not fill a question is left over, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from screening.task import OPTIONS
from trainer.data.import_pairs.pairs import Pair

Digests = Mapping[str, str]
"""Picture → SHA-256 of its bytes."""


class Reason(StrEnum):
    """Why a pair is in no question."""

    NO_VERDICT = "no verdict"
    CONTRADICTORY = "contradictory verdicts"
    REPEATED = "repeated"
    IS_ORIGINAL = "the generated picture is the original"
    MISSING = "picture missing"
    UNREADABLE = "picture unreadable"
    REMAINDER = "fewer than four pictures remain of its original"


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A pair that is in no question."""

    pair: Pair
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Four pairs of one original, in the order A, B, C, D."""

    id: str
    original: str
    """The first by name, where copies of the original have several."""
    pairs: tuple[Pair, ...]


def sort_out(pairs: Iterable[Pair], digests: Digests) -> tuple[list[Pair], list[LeftOver]]:
    """The pairs that a question can be made of, each picture once, and the others."""
    by_picture: dict[tuple[str, str], list[Pair]] = {}
    left: list[LeftOver] = []
    for pair in pairs:
        original, generated = digests[pair.original], digests[pair.generated]
        if pair.usable is None:
            left.append(LeftOver(pair, Reason.NO_VERDICT))
        elif generated == original:
            left.append(LeftOver(pair, Reason.IS_ORIGINAL))
        else:
            by_picture.setdefault((original, generated), []).append(pair)
    kept = []
    for same in by_picture.values():
        if len({pair.usable for pair in same}) > 1:
            left += [LeftOver(pair, Reason.CONTRADICTORY) for pair in same]
            continue
        # The one that says most about the picture, the first by name of several.
        best = min(same, key=lambda pair: (not pair.dimensions, not pair.comment, pair.generated, pair.original))
        kept.append(best)
        left += [LeftOver(pair, Reason.REPEATED) for pair in same if pair is not best]
    return kept, left


def group(pairs: Iterable[Pair], seed: int, digests: Digests) -> tuple[list[Question], list[LeftOver]]:
    """Questions in the order of the originals' names, and the pairs that remain of each original."""
    by_original: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.original):
        by_original.setdefault(digests[pair.original], []).append(pair)
    questions, left = [], []
    for own in by_original.values():
        drawn = sorted(own, key=lambda pair: _place(pair, seed, digests))
        whole = len(drawn) - len(drawn) % len(OPTIONS)
        for start in range(0, whole, len(OPTIONS)):
            four = tuple(drawn[start : start + len(OPTIONS)])
            questions.append(Question(_name(four, digests), own[0].original, four))
        left += [LeftOver(pair, Reason.REMAINDER) for pair in drawn[whole:]]
    return questions, left


def _place(pair: Pair, seed: int, digests: Digests) -> bytes:
    return hashlib.sha256(f"{seed}\n{digests[pair.original]}\n{digests[pair.generated]}".encode()).digest()


def _name(four: Sequence[Pair], digests: Digests) -> str:
    """An id that follows from the bytes of the five pictures and their order."""
    pictures = "\n".join(digests[picture] for picture in (four[0].original, *(pair.generated for pair in four)))
    return f"pairs-{hashlib.sha256(pictures.encode()).hexdigest()[:20]}"
