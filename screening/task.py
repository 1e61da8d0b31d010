"""The task: one original, four generated pictures, and which of them may be shown (paper, section 3).

A *label* (and equally an answer) is a set of options. The empty set means that no picture is usable and is written `N`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Self

OPTIONS: tuple[str, ...] = ("A", "B", "C", "D")
NONE = "N"

Options = frozenset[str]
"""A subset of OPTIONS; empty means `N`."""


class Dimension(StrEnum):
    """The ways in which a generated picture goes wrong (paper, section 3.2), one row each.

    A row is: the name in data, manifests and the HTTP API; the word that answers use; what the prompt says about it.
    The prompt, the answer grammar, the schemas, the evaluation and the reports follow from this table. A new row goes
    to the end, because answers and tables keep this order. docs/how-to/add-a-dimension.md says what else it takes.
    """

    _value_: str
    short: str
    """The word that answers use, such as `shadow`."""
    meaning: str
    """What is wrong with the picture, as the prompt says it."""

    APPEARANCE = "appearance_deformation", "appearance", "the product changed"
    SHADOW = "physical_shadow", "shadow", "light or shadow is wrong"
    LAYOUT = "placement_layout", "layout", "the product stands where it cannot"
    EXTENSION = "extension_rationality", "extension", "something was added"

    def __new__(cls, name: str, short: str, meaning: str) -> Self:
        row = str.__new__(cls, name)
        row._value_, row.short, row.meaning = name, short, meaning
        return row

    @property
    def title(self) -> str:  # type: ignore[override]
        """For people: `appearance deformation`."""
        return self.value.replace("_", " ")


DIMENSIONS = tuple(Dimension)
"""All dimensions that this version knows."""
STANDARD_DIMENSIONS = (Dimension.APPEARANCE, Dimension.SHADOW, Dimension.LAYOUT, Dimension.EXTENSION)
"""The dimensions of a checkpoint whose manifest names none: those of the paper. A new dimension never joins them."""

NORMAL = "normal"
"""The word for a picture without any issue."""


def dimension_named(word: str, among: Collection[Dimension] = DIMENSIONS) -> Dimension | None:
    """The dimension that a word or phrase names (`shadow`, `Physical Shadow`, `physical_shadow`), or None."""
    folded = " ".join(word.lower().replace("_", " ").split())
    for dimension in among:
        if folded in (dimension.short, dimension.title):
            return dimension
    return None


def options_text(options: Iterable[str]) -> str:
    """Write a set of options as the paper does: letters in order, `N` for none. {"C", "A"} → "AC"."""
    chosen = set(options)
    unknown = chosen - set(OPTIONS)
    if unknown:
        raise ValueError(f"unknown options {sorted(unknown)}; options are {', '.join(OPTIONS)}")
    return "".join(o for o in OPTIONS if o in chosen) or NONE
