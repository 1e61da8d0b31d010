"""Assign samples to splits: a pure function of the product, a seed and earlier assignments.

A product's place is a hash of its name, so further data never moves an existing product, and the order of the data does
not matter. Samples that share a product or an identical picture form one group and stay together, because a model must
not be tested on pictures of its training.
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
    """The paper's four splits (section 3 and table 1), and validation data for choosing among states of a training; the
    values are directory names."""

    TRAINING = "training"
    VALIDATION = "validation"
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
"""Share of each split, summing to 1; exact fractions, so 3,1,1,1 equals 0.3,0.1,0.1,0.1. A split that is not in it does
not exist."""

_PLACES = 1 << 64
_ALL = frozenset(Split)


class SplitError(UserError):
    """The data cannot be divided, or the output directory cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Item:
    """One sample and the facts that decide its split."""

    sample: AnySample
    line: bytes
    """The line of `samples.jsonl` as the source wrote it. The split gets the same line with other file names."""
    directory: Path
    digests: tuple[str, ...]
    """SHA-256 of the five pictures, in the order of `Sample.files`."""

    @property
    def labelled(self) -> bool:
        return not isinstance(self.sample, Unlabelled)

    @property
    def product(self) -> str:
        """The identity of the product: its name, or the hash of the original picture if the source gives no name."""
        named = self.sample.product.strip()
        return f"product {named}" if named else f"picture {self.digests[0]}"

    @property
    def ties(self) -> tuple[str, ...]:
        """The properties that two splits must not share: the product and the bytes of each picture."""
        return (self.product, *(f"picture {digest}" for digest in self.digests))


def shares_of(weights: Sequence[Fraction | int]) -> Shares:
    """Convert the weights of the paper's four splits, in the order of `PAPER_SIZES`, to shares.

    Raises:
        ValueError: the number of weights is not four, a weight is negative, or all are 0.
    """
    if len(weights) != len(PAPER_SIZES) or min(weights) < 0 or not sum(weights):
        raise ValueError(f"give {len(PAPER_SIZES)} weights of at least 0, not all 0")
    return {split: Fraction(weight) / sum(weights) for split, weight in zip(PAPER_SIZES, weights, strict=True)}


def with_validation(shares: Shares, part: Fraction) -> Shares:
    """Give a part of the training split to validation. All other splits keep their products.

    Args:
        part: between 0 and 1; with 0 there is no split for validation.
    """
    if not part:
        return shares
    training = shares[Split.TRAINING]
    divided = {**shares, Split.TRAINING: training * (1 - part), Split.VALIDATION: training * part}
    return {split: divided[split] for split in Split}


def place(product: str, seed: int) -> int:
    """The place of a product, a hash of the seed and its name that is uniform in 0 … 2^64 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{product}".encode()).digest()[:8], "big")


def split_at(position: int, shares: Shares) -> Split:
    """The split whose interval contains a place; the intervals are in the order of `Split`."""
    end = Fraction(0)
    for split in Split:
        end += shares.get(split, 0)
        if position < end * _PLACES:
            return split
    raise ValueError(f"the shares sum to {end}, not to 1")


def assign(items: Iterable[Item], shares: Shares, seed: int, earlier: Mapping[str, Split]) -> dict[str, Split | None]:
    """Assign a split to each sample, by id.

    The smallest place of a group's products decides its split, so the order of the products does not matter. A group
    that already has samples in a split stays there.

    Samples without a label are useful only in pseudo-label and exploration. They are divided between these two by their
    shares, or follow the labelled samples of their product: a product of the training split goes to pseudo-label,
    because the model is trained on both and nothing leaks.

    Args:
        earlier: the splits of samples that were divided before, which do not change.

    Returns:
        Sample id → split. None for a sample that would connect products of two splits, since it would leak from one
        to the other, and for an unlabelled sample of a test or validation product.

    Raises:
        SplitError: some samples have no label, and pseudo-label and exploration both have the share 0.
    """
    # The test set comes first, so that it keeps its products in every conflict.
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
    Split.VALIDATION: None,
    Split.TESTING: None,
    Split.PSEUDO_LABEL: Split.PSEUDO_LABEL,
    Split.EXPLORATION: Split.EXPLORATION,
}
"""Split of a product → split of its samples without a label."""


def _without_label(shares: Shares) -> Shares:
    """The shares for products that have no labelled sample."""
    weights = [shares[split] if split in (Split.PSEUDO_LABEL, Split.EXPLORATION) else 0 for split in PAPER_SIZES]
    if not sum(weights):
        raise SplitError(
            "some samples have no label, and the shares of pseudo-label and exploration are both 0; "
            "give one of them a share, for example --shares 0.7,0.2,0.05,0.05"
        )
    return shares_of(weights)


def _open_to(item: Item, before: Split | None) -> frozenset[Split]:
    """The splits that a product may belong to, given the split of one of its samples."""
    if before is None:
        return _ALL
    if before is Split.PSEUDO_LABEL and not item.labelled:
        return frozenset({Split.TRAINING, Split.PSEUDO_LABEL})
    return frozenset({before})


def _rank(item: Item, earlier: Mapping[str, Split]) -> tuple[int, bool]:
    split = earlier.get(item.sample.id)
    return 2 if split is None else int(split is not Split.TESTING), not item.labelled


class _Groups:
    """Groups of connected products and pictures (union-find), each with the splits that it may still belong to."""

    def __init__(self) -> None:
        self._open: dict[str, frozenset[Split]] = {}
        self._parents: dict[str, str] = {}

    def of(self, tie: str) -> str:
        """The representative of a group."""
        root = tie
        while (parent := self._parents.setdefault(root, root)) != root:
            root = parent
        while tie != root:  # path compression
            self._parents[tie], tie = root, self._parents[tie]
        return root

    def split(self, group: str) -> Split | None:
        """The split of a group that already has samples in a split; None if its place decides."""
        found = self._open.get(group, _ALL)
        if len(found) == 1:
            return min(found)
        return None if found == _ALL else Split.PSEUDO_LABEL

    def join(self, ties: Iterable[str], open_to: frozenset[Split]) -> bool:
        """Merge the groups of all ties. If no split would remain possible, change nothing and return False."""
        roots = {self.of(tie) for tie in ties}
        left = frozenset.intersection(open_to, *(self._open.get(root, _ALL) for root in roots))
        if not left:
            return False
        head = min(roots)
        for root in roots:
            self._parents[root] = head
        self._open[head] = left
        return True
