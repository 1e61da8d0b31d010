"""Invent defects that were not planted but would be possible for the product, in the renderer's words."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from screening.task import Dimension
from trainer.data.render.defect_kinds import KINDS
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
"""Kind of appearance defect → attribute that a product must have for it."""

_PHOTOGRAPHED = ("all_colours", "slim", "wide")
"""Kinds of appearance defect that are possible for every product."""

_OTHERS: dict[Dimension, tuple[str, ...]] = {
    Dimension.SHADOW: ("doubled", "missing", "direction", "too_long", "wrong_side"),
    Dimension.LAYOUT: ("floating", "sunk", "leaning"),
    Dimension.EXTENSION: ("second_product", "sticker", "sparkles"),
}

INVENTED = (Dimension.APPEARANCE, *_OTHERS)
"""Dimensions in which a defect can be made up: those of which the renderer plants defects."""


def invent(dimension: Dimension, attributes: Mapping[str, Any], rng: random.Random) -> Defect:
    """Invent a defect of a dimension. It is subtle if its kind allows that, because imagined defects are not gross.

    Args:
        attributes: attributes of the original, as the renderer writes them; may be empty.
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
