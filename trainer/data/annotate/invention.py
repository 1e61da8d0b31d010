"""Defects that nobody planted, in the renderer's words, such as could be true of the product at hand."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from screening.task import Dimension
from trainer.data.render.defects import KINDS
from trainer.records import Defect

_DRAWN: dict[str, str | None] = {
    "body_colour": None,
    "number": "number",
    "slim": None,
    "wide": None,
    "cap_colour": "cap",
    "cap_shape": "cap",
    "mark_colour": "mark",
    "mark_replaced": "mark",
}
"""Kinds of appearance that somebody may see in a drawn product → the attribute it must have."""

_PHOTOGRAPHED = ("hue_shifted", "slim", "wide")
"""Kinds that can be said of any product: nothing is known about its parts."""

_OTHERS: dict[Dimension, tuple[str, ...]] = {
    Dimension.SHADOW: ("doubled", "missing", "direction", "too_long", "wrong_side"),
    Dimension.LAYOUT: ("floating", "sunk", "leaning"),
    Dimension.EXTENSION: ("second_product", "sticker", "sparkles"),
}

INVENTED = (Dimension.APPEARANCE, *_OTHERS)
"""Dimensions in which a defect can be made up: those that the renderer draws."""


def invent(dimension: Dimension, attributes: Mapping[str, Any], rng: random.Random) -> Defect:
    """A defect of a dimension, subtle where its kind can be: who sees one that is not there does not see a gross one.

    Args:
        attributes: of the original, as the renderer writes them; may be empty.
    """
    kind = rng.choice(_kinds(dimension, attributes))
    row = KINDS[kind]
    return Defect(dimension=dimension, kind=kind, severity=min(row.severities), comment=row.comment)


def _kinds(dimension: Dimension, attributes: Mapping[str, Any]) -> list[str]:
    if dimension is not Dimension.APPEARANCE:
        return list(_OTHERS[dimension])
    if "number" not in attributes:
        return list(_PHOTOGRAPHED)
    return [kind for kind, part in _DRAWN.items() if part is None or attributes.get(part, "none") != "none"]
