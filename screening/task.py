"""The task: one original, four generated pictures, and which of them may be shown (paper, section 3).

A *label* (and equally an answer) is a set of options. The empty set means that no picture is usable and is written `N`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

OPTIONS: tuple[str, ...] = ("A", "B", "C", "D")
NONE = "N"

Options = frozenset[str]
"""A subset of OPTIONS; empty means `N`."""


class Dimension(StrEnum):
    """The four ways in which a generated picture goes wrong (paper, section 3.2)."""

    APPEARANCE = "appearance_deformation"
    SHADOW = "physical_shadow"
    LAYOUT = "placement_layout"
    EXTENSION = "extension_rationality"

    @property
    def short(self) -> str:
        """The word that answers use: `appearance`, `shadow`, `layout`, `extension`."""
        return _SHORT[self]

    @property
    def title(self) -> str:  # type: ignore[override]
        """For people: `appearance deformation`."""
        return self.value.replace("_", " ")


_SHORT = {
    Dimension.APPEARANCE: "appearance",
    Dimension.SHADOW: "shadow",
    Dimension.LAYOUT: "layout",
    Dimension.EXTENSION: "extension",
}

NORMAL = "normal"
"""The word for a picture without any issue."""


def dimension_named(word: str) -> Dimension | None:
    """The dimension that a word or phrase names (`shadow`, `Physical Shadow`, `physical_shadow`), or None."""
    folded = " ".join(word.lower().replace("_", " ").split())
    for dimension in Dimension:
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
