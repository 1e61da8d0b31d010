"""Boxes: where in a picture an issue is, as rectangles in shares of the picture's width and height.

The model sees a picture on a padded canvas, which is a square unless the picture has several tiles
(`screening.inference.pictures`). A `Frame` converts between boxes on the canvas and boxes on the picture as sent.

In a model's text, a box has the notation of InternVL: `<box>[[x1, y1, x2, y2]]</box>`, with whole numbers from 0 to
1000 on the canvas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

Size = tuple[int, int]
"""Width and height. Only their ratio counts."""

SCALE = 1000
"""Largest coordinate in a model's text."""
STEP = 10
"""Coordinates are written as multiples of this. A hundredth of the side is finer than issues can be told apart, and a
last digit that is always 0 costs a model nothing to learn."""


class Box(NamedTuple):
    """A rectangle with edges, from 0 to 1; x grows to the right and y grows downward."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    @property
    def valid(self) -> bool:
        """Whether it lies inside the picture and is not empty."""
        return 0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1

    def contains(self, point: tuple[float, float]) -> bool:
        return self.left <= point[0] <= self.right and self.top <= point[1] <= self.bottom

    def iou(self, other: Box) -> float:
        """Intersection over union, from 0 to 1."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area
        return common / (self.area + other.area - common) if common else 0.0


class Frame(NamedTuple):
    """How a picture lies on the canvas that the model sees: as large as possible, and in the middle."""

    picture: Size = (1, 1)
    """Of the upright picture."""
    canvas: Size = (1, 1)

    def on_canvas(self, box: Box) -> Box:
        """Convert a box on the picture to a box on the canvas."""
        (across, down), (wide, high) = self._margins()
        return Box(across + box.left * wide, down + box.top * high, across + box.right * wide, down + box.bottom * high)

    def on_picture(self, box: Box) -> Box | None:
        """Convert a box on the canvas to a box on the picture; None if it lies in the padding."""
        (across, down), (wide, high) = self._margins()
        found = Box(
            _clipped((box.left - across) / wide),
            _clipped((box.top - down) / high),
            _clipped((box.right - across) / wide),
            _clipped((box.bottom - down) / high),
        )
        return found if found.valid else None

    def _margins(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The padding to the left and above, and the picture's width and height, as shares of the canvas."""
        across, down = self.picture[0] / self.canvas[0], self.picture[1] / self.canvas[1]
        wide, high = across / max(across, down), down / max(across, down)
        return ((1 - wide) / 2, (1 - high) / 2), (wide, high)


def _clipped(value: float) -> float:
    """In steps of 0.0001, as answers write it, so that a box that is valid here is valid there."""
    return round(min(1.0, max(0.0, value)), 4)


_WORD = r"(?:nan|inf(?:inity)?|e)(?![^\W\d_])"
"""The letters that may occur in numbers."""
_LIST = rf"(?:[\d\s,.+-]|{_WORD})*"
"""Numbers, also damaged ones."""
_END = rf"\](?:\s*,\s*\[{_LIST}\])*\]?"
"""The end of a list, and the lists of further objects."""
_MARKUP = re.compile(
    rf"""(?P<box>
        <box> (?: (?:[^\w<>]|[\d_]|{_WORD})* </box>  # closed, and without words
                | \s* \[\[? {_LIST} (?:{_END})? )?    # not closed: only the coordinates belong to it
        | \[\[ (?=[^\[\]<>]{{1,60}},) {_LIST} (?:{_END}|(?=<)|\Z) (?:\s*</box>)?  # coordinates without a tag
    ) | </box>""",
    re.IGNORECASE | re.VERBOSE,
)
"""Everything that belongs to boxes, whole or damaged, and no words. Engines that leave out special tokens write a box
of InternVL without its tags. The numbers after one `[[` or `<box>` contain no other, so the time is linear without
possessive quantifiers, which Python reads wrongly before 3.11.5 (cpython #106052)."""
BOX_TAG = re.compile(r"</?box>", re.IGNORECASE)
_REMAINS = re.compile(rf"{BOX_TAG.pattern}|\[(?=\[)", re.IGNORECASE)
_NUMBERS = r"\s*[+-]?\d{1,9}(?:\.\d{0,9})?\s*(?:,\s*[+-]?\d{1,9}(?:\.\d{0,9})?\s*){3}"
_COORDINATES = re.compile(rf"\[\[({_NUMBERS})\]\]")
_CLOSING = ",.;:!?)]}"


def box_text(box: Box) -> str:
    """Write a box on the canvas in InternVL's notation."""
    (left, right), (top, bottom) = _steps(box.left, box.right), _steps(box.top, box.bottom)
    return f"<box>[[{left}, {top}, {right}, {bottom}]]</box>"


def _steps(low: float, high: float) -> tuple[int, int]:
    """Both edges as whole numbers, at least one step apart."""
    most = SCALE // STEP
    first, last = round(low * most), round(high * most)
    if first == last:
        first = min(first, most - 1)
        last = first + 1
    return first * STEP, last * STEP


def split_boxes(text: str) -> tuple[str, tuple[Box | None, ...]]:
    """Take the boxes out of a text.

    Returns:
        The text without any markup of boxes, and the boxes in order; None for one that is malformed, reversed, empty or
        out of range.
    """
    if "[[" not in text and "box>" not in text.lower():
        return text, ()
    found = list(_MARKUP.finditer(text))
    starts, ends = [match.start() for match in found], [match.end() for match in found]
    rest = _joined([text[end:start] for end, start in zip([0, *ends], [*starts, len(text)], strict=True)])
    if _MARKUP.search(rest):  # boxes were nested, and what is left of the outer ones is a box again
        rest = _REMAINS.sub(" ", rest)
    return rest, tuple(_box(match["box"]) for match in found if match["box"])


def _joined(pieces: Sequence[str]) -> str:
    """Join the pieces between boxes, so that no two words run together and no space stands before punctuation."""
    joined: list[str] = []
    for piece in pieces:
        if joined:
            joined[-1] = joined[-1].rstrip()
        words = piece[:1] not in ("", *_CLOSING) and not piece[:1].isspace()
        joined += [" ", piece] if words and joined else [piece]
    return "".join(joined)


def _box(text: str) -> Box | None:
    if not (found := _COORDINATES.search(text)):
        return None
    box = Box(*(float(number) / SCALE for number in found[1].split(",")))
    return box if box.valid else None
