"""Which split a sample belongs to: a pure function of its product, a seed and what was decided before.

A product's place is a hash of its name, so more data never moves a product that is there already, and the order of
the data does not matter. Samples that share a product or the very bytes of any picture form one group and stay
together: a model that was trained on a picture must not be tested on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from screening.errors import UserError
from trainer.records import AnySample, Unlabelled


class Split(StrEnum):
    """The four splits (paper, section 3 and table 1); the values are directory names."""

    TRAINING = "training"
    TESTING = "testing"
    PSEUDO_LABEL = "pseudo-label"
    EXPLORATION = "exploration"


PAPER_SIZES: dict[Split, int] = {
    Split.TRAINING: 1_044,
    Split.TESTING: 468,
    Split.PSEUDO_LABEL: 10_724,
    Split.EXPLORATION: 115_809,
}
"""Samples per split (paper, table 1)."""

Shares = Mapping[Split, Fraction]
"""Share of each split, in the order of `Split`, summing to 1. Fractions: 3,1,1,1 and 0.3,0.1,0.1,0.1 are the same."""

_PLACES = 1 << 64
_ALL = frozenset(Split)


class SplitError(UserError):
    """The data cannot be divided, or not into this directory; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Item:
    """One sample as it was found, with what decides its split."""

    sample: AnySample
    line: bytes
    """Its line of `samples.jsonl`: what is written later, field by field as the source wrote it."""
    directory: Path
    digests: tuple[str, ...]
    """SHA-256 of the five pictures, in the order of `Sample.files`."""

    @property
    def labelled(self) -> bool:
        return not isinstance(self.sample, Unlabelled)

    @property
    def product(self) -> str:
        """Who the sample shows: its product, or the bytes of its original picture where the source names none."""
        named = self.sample.product.strip()
        return f"product {named}" if named else f"picture {self.digests[0]}"

    @property
    def ties(self) -> tuple[str, ...]:
        """What no two splits may share: the product and the bytes of each picture."""
        return (self.product, *(f"picture {digest}" for digest in self.digests))


def shares_of(weights: Sequence[Fraction | int]) -> Shares:
    """Weights of the four splits, in their order, as shares.

    Raises:
        ValueError: not four weights, one is negative, or all are 0.
    """
    if len(weights) != len(Split) or min(weights) < 0 or not sum(weights):
        raise ValueError(f"{len(Split)} weights are needed, not negative and not all 0")
    return {split: Fraction(weight) / sum(weights) for split, weight in zip(Split, weights, strict=True)}


def place(product: str, seed: int) -> int:
    """The fixed place of a product, uniform in 0 … 2^64 - 1 over products; another seed is another draw."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{product}".encode()).digest()[:8], "big")


def split_at(position: int, shares: Shares) -> Split:
    """The split whose stretch of the places holds this one; the stretches follow each other in the order of `Split`."""
    end = Fraction(0)
    for split in Split:
        end += shares[split]
        if position < end * _PLACES:
            return split
    raise ValueError(f"the shares sum to {end}, not to 1")


def assign(items: Iterable[Item], shares: Shares, seed: int, earlier: Mapping[str, Split]) -> dict[str, Split | None]:
    """The split of each sample, by id.

    A group goes where its first product's place says: "first" is the smallest place, so the same products give the
    same split in any order. A group that has samples in a split already stays there.

    Args:
        earlier: the splits of samples that were divided before; they keep them.

    A sample without a label is of use in pseudo-label and exploration only. It goes there with the share that the two
    have of each other, or follows the labelled samples of its product: with training to pseudo-label, since what is
    trained on either way leaks nothing.

    Returns:
        None for a sample that would tie products of two splits together, since neither can take it without a leak, and
        for one without a label whose product is tested on.

    Raises:
        SplitError: there are samples without a label, and pseudo-label and exploration both have the share 0.
    """
    # The test set first: whatever turns out to share a product with it gives way.
    ranked = sorted(items, key=lambda item: (_rank(item, earlier), item.sample.id))
    groups = _Groups()
    placed: list[Item] = []
    result: dict[str, Split | None] = {}
    for item in ranked:
        if groups.join(item.ties, _open_to(item, earlier.get(item.sample.id))):
            placed.append(item)
        else:
            result[item.sample.id] = None
    first: dict[str, int] = {}
    for item in placed:
        group = groups.of(item.product)
        position = place(item.product, seed)
        first[group] = min(first.get(group, position), position)
    labelled = {groups.of(item.product) for item in placed if item.labelled}
    for item in placed:
        group = groups.of(item.product)
        split = groups.split(group)
        if split is None:
            split = split_at(first[group], shares if group in labelled else _without_label(shares))
        result[item.sample.id] = split if item.labelled else _UNLABELLED[split]
    return result


_UNLABELLED: Mapping[Split, Split | None] = {
    Split.TRAINING: Split.PSEUDO_LABEL,
    Split.TESTING: None,
    Split.PSEUDO_LABEL: Split.PSEUDO_LABEL,
    Split.EXPLORATION: Split.EXPLORATION,
}
"""The split of a product → where its samples without a label go."""


def _without_label(shares: Shares) -> Shares:
    """The shares among which samples of products without any label are divided."""
    weights = [shares[split] if split in (Split.PSEUDO_LABEL, Split.EXPLORATION) else 0 for split in Split]
    if not sum(weights):
        raise SplitError(
            "some samples have no label, and the shares of pseudo-label and exploration are both 0; "
            "give one of them a share, for example --shares 0.7,0.2,0.05,0.05"
        )
    return shares_of(weights)


def _open_to(item: Item, before: Split | None) -> frozenset[Split]:
    """The splits in which the product of a sample may be, given where the sample is."""
    if before is None:
        return _ALL
    if before is Split.PSEUDO_LABEL and not item.labelled:
        return frozenset({Split.TRAINING, Split.PSEUDO_LABEL})
    return frozenset({before})


def _rank(item: Item, earlier: Mapping[str, Split]) -> tuple[int, bool]:
    split = earlier.get(item.sample.id)
    return 2 if split is None else int(split is not Split.TESTING), not item.labelled


class _Groups:
    """Ties joined into groups (union-find), each with the splits that are open to it."""

    def __init__(self) -> None:
        self._open: dict[str, frozenset[Split]] = {}
        self._parents: dict[str, str] = {}

    def of(self, tie: str) -> str:
        """The tie that stands for the group."""
        root = tie
        while (parent := self._parents.setdefault(root, root)) != root:
            root = parent
        while tie != root:  # later walks are short
            self._parents[tie], tie = root, self._parents[tie]
        return root

    def split(self, group: str) -> Split | None:
        """The split of a group that has samples in one already; None where its place decides."""
        found = self._open.get(group, _ALL)
        if len(found) == 1:
            return min(found)
        return None if found == _ALL else Split.PSEUDO_LABEL

    def join(self, ties: Iterable[str], open_to: frozenset[Split]) -> bool:
        """Make one group of all ties; False, and nothing done, if no split would be open to it."""
        roots = {self.of(tie) for tie in ties}
        left = frozenset.intersection(open_to, *(self._open.get(root, _ALL) for root in roots))
        if not left:
            return False
        head = min(roots)
        for root in roots:
            self._parents[root] = head
        self._open[head] = left
        return True
