"""Show what was composed: one row per sample with every step, as an HTML page and as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from screening.task import OPTIONS
from trainer.data.compose.files import picture_file, step_file
from trainer.data.compose.sample import Composed
from trainer.runs.html import CLOSING, embedded, opening

_SIDE = 320
"""Height in pixels of a picture on the page."""
_CELL, _GAP, _LINE = 224, 8, 16

_STYLE = """
body { max-width: 110rem; }
.steps { display: flex; flex-wrap: wrap; gap: .6rem; }
.steps img { height: 11rem; width: auto; }
figcaption { max-width: 22rem; }
"""

_Cell = tuple[str, str, str]
"""Path of a picture, its name, and a remark."""


def page(out: Path, samples: Sequence[Composed], title: str) -> str:
    """One HTML file with all pictures inside.

    Args:
        out: the data directory.
    """
    return opening(title, _STYLE) + "".join(_article(out, sample) for sample in samples) + CLOSING


def _article(out: Path, sample: Composed) -> str:
    notes = f" Look at: {', '.join(sample.notes)}." if sample.notes else ""
    about = f"{sample.setting}. Licence of the pictures: {sample.licence}.{notes}"
    figures = "".join(
        f'<figure><img alt="{escape(name)}" src="{embedded(_jpeg(out / file), "jpeg")}">'
        f"<figcaption><b>{escape(name)}</b> {escape(remark)}</figcaption></figure>"
        for file, name, remark in _cells(sample)
    )
    return (
        f"<article><h3>{escape(sample.product)}</h3><p class=soft>{escape(about)}</p>"
        f'<div class="steps">{figures}</div></article>\n'
    )


def _cells(sample: Composed) -> Iterator[_Cell]:
    yield picture_file(sample.id, "original"), "original", ""
    for name in ("placeholder", "mask", "initial"):
        yield step_file(sample.id, name), name, ""
    for option in OPTIONS:
        one = sample.measures[option]
        yield (
            picture_file(sample.id, option),
            option,
            f"changed inside {one.change_inside:g} of 255, halo {one.halo:g}",
        )


def _jpeg(path: Path) -> bytes:
    with Image.open(path) as image:
        shown = image.convert("RGB")
    shown.thumbnail((2 * _SIDE, _SIDE), Image.Resampling.LANCZOS)
    target = BytesIO()
    shown.save(target, "JPEG", quality=85)
    return target.getvalue()


def contact_sheet(out: Path, samples: Sequence[Composed], title: str) -> Image.Image:
    """The same pictures on one sheet; each row ends with the four generated ones."""
    width, row = 10 * (_CELL + _GAP) + _GAP, _CELL + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (width, max(1, len(samples)) * row + 2 * _LINE), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_GAP, _GAP), title, fill=(40, 40, 44), font=font)
    for number, sample in enumerate(samples):
        left, top = _GAP, 2 * _LINE + number * row
        for file, name, _ in _cells(sample):
            with Image.open(out / file) as image:
                shown = image.convert("RGB")
            cells = 2 if name in ("mask", "initial") else 1
            shown.thumbnail((cells * (_CELL + _GAP) - _GAP, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(shown, (left, top))
            label = f"{sample.product}, {name}" if name == "original" else name
            draw.text((left, top + _CELL + 2), label[:36], fill=(40, 40, 44), font=font)
            left += cells * (_CELL + _GAP)
    return sheet
