"""The example products of the demo, and the rules that compare the service's answers with what was planted in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from screening_client import OptionVerdict, Screening

PICTURES = ("a", "b", "c", "d")


class DemoFailed(Exception):
    """The demo cannot continue; the message says why."""


@dataclass(frozen=True)
class Planted:
    """The truth about one generated picture."""

    dimensions: tuple[str, ...]
    """Dimensions of the planted defects; empty for a usable picture."""
    comment: str

    def __str__(self) -> str:
        return f"{', '.join(self.dimensions).replace('_', ' ') or 'normal'}: {self.comment}"

    def matches(self, verdict: OptionVerdict) -> bool:
        """Whether a verdict names the planted dimensions and describes the planted defects, in any order."""
        said = (verdict.comment or "").partition(": ")[2]
        return set(verdict.issues) == set(self.dimensions) and _clauses(said) == _clauses(self.comment)


@dataclass(frozen=True)
class Product:
    """One example: five pictures, and what was planted in them."""

    folder: Path
    name: str
    label: str
    """The usable pictures, `AC`, or `N`."""
    planted: tuple[Planted, ...]

    @property
    def original(self) -> Path:
        return self.folder / "original.jpg"

    @property
    def generated(self) -> list[Path]:
        return [self.folder / f"{letter}.jpg" for letter in PICTURES]


@dataclass(frozen=True)
class Result:
    """One product and the service's answer about it."""

    product: Product
    screening: Screening

    @property
    def agrees(self) -> bool:
        """Whether the decision is right; see `agrees`."""
        return agrees(self.screening.acceptable, self.product.label, answered=self.screening.answered)

    @property
    def comments(self) -> tuple[bool, ...]:
        """For each picture, whether the comment matches the planted truth."""
        pairs = zip(self.product.planted, self.screening.options, strict=True)
        return tuple(planted.matches(verdict) for planted, verdict in pairs)

    @property
    def described(self) -> bool:
        """Whether the reasoning describes the original as it was rendered, with its colours, marks and number."""
        return self.product.name in (self.screening.reasoning or "")


def agrees(acceptable: Sequence[str], label: str, *, answered: bool = True) -> bool:
    """Whether a decision is right (paper, section 5.1): every named option is in the label; `N` only for `N`."""
    if not answered:
        return False
    return set(acceptable) <= set(label) if acceptable else label == "N"


def totals(results: Sequence[Result]) -> list[str]:
    """Sentences that say how many decisions, comments and descriptions match the planted truth."""
    count = len(results)
    lines = [f"{sum(one.agrees for one in results)} of {count} decisions agree with the planted truth"]
    if any(one.screening.reasoning for one in results):  # direct mode has no comments
        comments = [match for one in results for match in one.comments]
        lines.append(f"{sum(comments)} of {len(comments)} comments on the pictures match the planted truth")
        lines.append(f"{sum(one.described for one in results)} of {count} descriptions of the original are right")
    return lines


def load_products(folder: Path) -> list[Product]:
    """Read `NN-name/{original,a,b,c,d}.jpg` and `truth.json`.

    Raises:
        DemoFailed: the folder holds no products, or a product is incomplete.
    """
    products = [_load(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    if not products:
        raise DemoFailed(f"{folder} holds no products; make_examples.py writes them")
    return products


def _load(folder: Path) -> Product:
    path = folder / "truth.json"
    try:
        truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        planted = tuple(Planted(tuple(each["dimensions"]), str(each["comment"])) for each in truth["pictures"])
        product = Product(folder, str(truth["product"]), str(truth["label"]), planted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DemoFailed(f"{path} cannot be used: {error!r}") from error
    if len(planted) != len(PICTURES):
        raise DemoFailed(f"{path} describes {len(planted)} pictures, not {len(PICTURES)}")
    return product


def _clauses(comment: str) -> set[str]:
    return set(comment.split(" and "))
