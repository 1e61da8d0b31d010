"""Draw a contact sheet: one row per sample, with the original, the four pictures, the label and the comments."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 256
_GAP = 8
_TEXT = 52
_LINE = 15
_LETTERS = 38
"""Characters per line under a picture."""

_GOOD, _BAD, _INK = (24, 120, 60), (176, 40, 36), (40, 40, 44)


def contact_sheet(directory: Path, records: Sequence[dict[str, Any]]) -> Image.Image:
    """Draw the sheet from the pictures on disk, so that it shows what was written."""
    width, row = 5 * (SIDE + _GAP) + _GAP, SIDE + _TEXT + _GAP
    sheet = Image.new("RGB", (width, max(1, len(records)) * row + _GAP), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, record in enumerate(records):
        top = _GAP + i * row
        cells = [(record["original"]["file"], f"{record['label']}   original, {record['setting']}", _INK)]
        for picture in record["generated"]:
            severity = f" (severity {picture['severity']})" if picture["severity"] else ""
            text = f"{picture['option']}  {picture['comment'] if picture['severity'] else 'normal'}{severity}"
            cells.append((picture["file"], text, _GOOD if picture["usable"] else _BAD))
        for column, (file, text, colour) in enumerate(cells):
            left = _GAP + column * (SIDE + _GAP)
            with Image.open(directory / file) as image:
                sheet.paste(ImageOps.contain(image, (SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
            for line, words in enumerate(textwrap.wrap(text, _LETTERS)[:3]):
                draw.text((left + 2, top + SIDE + 3 + line * _LINE), words, fill=colour, font=font)
    return sheet
