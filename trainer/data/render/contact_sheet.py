"""Draw a contact sheet: one row per sample, with the original, the four pictures, the label and the comments.

A frame around each defect shows its box, in one colour per dimension.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from screening.task import DIMENSIONS

SIDE = 256
_GAP = 8
_TEXT = 52
_LINE = 15
_Colour = tuple[int, int, int]
_LETTERS = 38
"""Characters per line under a picture."""

_FRAMES = ((255, 0, 160), (0, 120, 255), (255, 150, 0), (0, 190, 90), (120, 80, 255))
"""Colours of the frames, in the order of the dimensions."""
_GOOD, _BAD, _INK = (24, 120, 60), (176, 40, 36), (40, 40, 44)


def contact_sheet(directory: Path, records: Sequence[dict[str, Any]]) -> Image.Image:
    """Draw the sheet from the pictures on disk, so that it shows what was written."""
    width, row = 5 * (SIDE + _GAP) + _GAP, SIDE + _TEXT + _GAP
    sheet = Image.new("RGB", (width, max(1, len(records)) * row + _GAP), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, record in enumerate(records):
        top = _GAP + i * row
        title = f"{record['label']}   original, {record['setting']}"
        cells: list[tuple[str, str, _Colour, list[Any]]] = [(record["original"]["file"], title, _INK, [])]
        for picture in record["generated"]:
            severity = f" (severity {picture['severity']})" if picture["severity"] else ""
            text = f"{picture['option']}  {picture['comment'] if picture['severity'] else 'normal'}{severity}"
            cells.append((picture["file"], text, _GOOD if picture["usable"] else _BAD, picture["defects"]))
        for column, (file, text, colour, defects) in enumerate(cells):
            left = _GAP + column * (SIDE + _GAP)
            with Image.open(directory / file) as image:
                shown = ImageOps.contain(image, (SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(shown, (left, top))
            for defect in defects:
                _frame(draw, defect, (left, top), shown.size)
            for line, words in enumerate(textwrap.wrap(text, _LETTERS)[:3]):
                draw.text((left + 2, top + SIDE + 3 + line * _LINE), words, fill=colour, font=font)
    return sheet


def _frame(draw: ImageDraw.ImageDraw, defect: dict[str, Any], corner: tuple[int, int], size: tuple[int, int]) -> None:
    if not (box := defect.get("box")):
        return
    edges = [corner[i % 2] + edge * size[i % 2] for i, edge in enumerate(box)]
    colour = _FRAMES[DIMENSIONS.index(defect["dimension"]) % len(_FRAMES)]
    draw.rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), outline=colour, width=2)
