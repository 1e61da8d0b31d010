"""What a reviewer sees: pictures and the model's answer by number, in the order of display."""

from __future__ import annotations

import re
from hashlib import sha256
from itertools import permutations
from typing import Any

from screening.task import NONE, OPTIONS
from service.schemas import Documented

ORDERS = tuple("".join(order) for order in permutations(OPTIONS))
"""The 24 orders in which a page can display four pictures."""


class ModelPicture(Documented):
    """What the model said about one picture."""

    number: int
    """The picture's number as displayed."""
    usable: bool
    """Whether the model called it usable."""
    dimensions: list[str]
    """What the model found wrong."""


class ModelAnswer(Documented):
    """The model's answer, in displayed numbers."""

    choice: int | None
    """The chosen picture; null if the model chose none, or its answer was unreadable."""
    acceptable: list[int]
    """Every picture that the model called usable."""
    confidence: float
    """Confidence of the answer."""
    needs_review: bool
    """Whether the answer asked for a human review."""
    pictures: list[ModelPicture]
    """What the model said about each picture."""
    reasoning: str | None
    """The model's reasoning."""


def display_order(seed: int, task: str, number: int) -> str:
    """The order of display in one slot of a task; each of the 24 orders is equally likely."""
    digest = sha256(f"{seed}:{task}:{number}".encode()).digest()
    return ORDERS[int.from_bytes(digest[:8]) % len(ORDERS)]


def number_of(order: str, letter: str) -> int:
    """The displayed number of a letter."""
    return order.index(letter) + 1


def model_answer(answer: dict[str, Any], order: str) -> ModelAnswer:
    """A decision's answer as shown in an order."""
    by_letter = {option["option"]: option for option in answer["options"]}
    choice = answer["choice"]
    return ModelAnswer(
        choice=None if choice in (None, NONE) else number_of(order, choice),
        acceptable=sorted(number_of(order, letter) for letter in answer["acceptable"]),
        confidence=answer["confidence"],
        needs_review=answer["needs_review"],
        pictures=[
            ModelPicture(number=number, usable=by_letter[letter]["usable"], dimensions=by_letter[letter]["issues"])
            for number, letter in enumerate(order, 1)
            if letter in by_letter
        ],
        reasoning=_numbered(answer["reasoning"], order),
    )


def _numbered(reasoning: str | None, order: str) -> str | None:
    """The reasoning with displayed numbers in place of the letters of its markers and its conclusion."""
    if reasoning is None:
        return None
    body, chose, end = reasoning.rpartition("I ultimately chose")
    body = re.sub(r"<([A-D])>", lambda found: f"<{number_of(order, found[1])}>", body)
    return body + chose + re.sub(r"\b[A-D]+\b", lambda found: _numbers(found[0], order), end)


def _numbers(letters: str, order: str) -> str:
    """The displayed numbers of letters: `AC` becomes `1, 4`."""
    return ", ".join(map(str, sorted(number_of(order, letter) for letter in letters)))


def is_right(choice: str | None, letters: str) -> bool:
    """Whether the model's choice is right if these pictures are usable, as the evaluation counts it."""
    return choice is not None and choice in letters
