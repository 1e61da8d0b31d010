"""Group pairs into questions of four.

Pictures are identified by their bytes and not by their names, because many shops keep a copy of the original with each
generated picture. The pictures of one original are put into an order that follows from a seed and their bytes, and are
then divided into groups of four. So the letters carry no information, the order of the file does not matter, and
further originals change no existing question. Products that share an original have questions of their own. Pairs that
fill no question are left over, with the reason.
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
    """The reason why a pair is left over."""

    NO_VERDICT = "no verdict"
    CONTRADICTORY = "contradictory verdicts"
    SEVERAL_PRODUCTS = "several products"
    REPEATED = "repeated"
    IS_ORIGINAL = "the generated picture is the original"
    MISSING = "picture missing"
    UNREADABLE = "picture unreadable"
    REMAINDER = "fewer than four pictures of its original remain"


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A pair that belongs to no question."""

    pair: Pair
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Four pairs of one original and one product, in the order A, B, C, D."""

    id: str
    original: str
    """Path of the original; the first in alphabetical order if there are copies."""
    pairs: tuple[Pair, ...]


def sort_out(pairs: Iterable[Pair], digests: Digests) -> tuple[list[Pair], list[LeftOver]]:
    """Separate the pairs that can be used, with each picture once, from the others."""
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
        if contradiction := _contradiction(same):
            left += [LeftOver(pair, contradiction) for pair in same]
            continue
        # Of equal pictures, the pair with the most information; of several, the first in alphabetical order.
        best = min(same, key=lambda pair: (not pair.dimensions, not pair.comment, pair.generated, pair.original))
        kept.append(best)
        left += [LeftOver(pair, Reason.REPEATED) for pair in same if pair is not best]
    return kept, left


def _contradiction(same: Sequence[Pair]) -> Reason | None:
    """The reason why the rows about one picture cannot all be true; None if they can."""
    if len({pair.usable for pair in same}) > 1:
        return Reason.CONTRADICTORY
    return Reason.SEVERAL_PRODUCTS if len({pair.product for pair in same}) > 1 else None


def group(pairs: Iterable[Pair], seed: int, digests: Digests) -> tuple[list[Question], list[LeftOver]]:
    """Form questions, in the order of the originals' names, and return the pairs that remain of each original.

    A question shows one product only. Products that share an original have that picture in common, by which `split`
    keeps them together.
    """
    by_product: dict[tuple[str, str], list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.original, pair.product)):
        by_product.setdefault((digests[pair.original], pair.product), []).append(pair)
    questions, left = [], []
    for own in by_product.values():
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
    """The id of a question: a hash of its five pictures in order."""
    pictures = "\n".join(digests[picture] for picture in (four[0].original, *(pair.generated for pair in four)))
    return f"pairs-{hashlib.sha256(pictures.encode()).hexdigest()[:20]}"
