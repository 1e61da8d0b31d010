"""All words that the renderer writes. They are few and regular, because a tiny model learns language from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NORMAL_COMMENT = "the product is unchanged and stands well"

BRANDS: tuple[str, ...] = ("NOVA", "LUMA", "VITA", "ZEN", "ORO", "KIVA", "MIRA", "SOL", "PURA", "TERA")

JOINT = " and "
"""Separator of the comments of a picture with two defects."""


def describe(attributes: Mapping[str, str]) -> str:
    """`a red bottle with a white cap, a blue star and the number 24`."""
    if "kind" not in attributes:  # a shop's own cut-out has no known attributes
        return "a product"
    parts = []
    if attributes.get("cap", "none") != "none":
        parts.append(article(f"{attributes['cap']} cap"))
    if attributes.get("stripes", "none") != "none":
        parts.append(f"{attributes['stripes']} stripes")
    if attributes["mark"] != "none":
        parts.append(article(f"{attributes['mark_colour']} {attributes['mark']}"))
    parts.append(f"the number {attributes['number']}")
    return f"{article(attributes['body'] + ' ' + attributes['kind'])} with {listing(parts)}"


def caption(attributes: Mapping[str, str], place: str, light: str | None, comments: Sequence[str]) -> str:
    """Describe one picture without reference to the original.

    `place` is a phrase like `on a wooden table`; `comments` are those on shadow, layout and extension.
    """
    text = f"{describe(attributes)}, {place}"
    if light is not None:
        text += f", light from the {light}"
    return f"{text}; {JOINT.join(comments)}" if comments else text


def article(noun: str) -> str:
    """`an orange bottle`, `a red bottle`."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def listing(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
