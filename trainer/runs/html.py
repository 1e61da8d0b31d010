"""Parts of the HTML pages that trainer commands write. Each page is one file without scripts or external links.

All text from a model or a data directory is escaped. A content security policy allows only the page's own style and
embedded pictures.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from screening.errors import ImageError
from screening.images import decode, inspect
from trainer.data_directory import DataError, read_bytes
from trainer.records import Generated, Sample

SIDE = 200
"""Longer side of a picture on a page, in pixels; about 8 KB each."""

STYLE = """
:root { color-scheme: light; --ink: #1d2329; --soft: #59636e; --line: #d5dbe1; --worse: #b3261e; --better: #1b6b3a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 1.5rem; color: var(--ink); background: #f5f7f9;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); overflow-wrap: anywhere; }
article { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 1rem; margin: 0 0 1rem; }
.pictures { display: grid; grid-template-columns: repeat(5, 1fr); gap: .6rem; margin: 0 0 .8rem; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; border: 3px solid var(--line); }
figure.usable img { border-color: var(--better); }
figcaption { font-size: .8rem; margin-top: .2rem; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
.answers section { border-top: 1px solid var(--line); padding-top: .4rem; min-width: 0; }
.answers p { margin: 0 0 .3rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 44rem) { .pictures { grid-template-columns: repeat(3, 1fr); }
  .answers { grid-template-columns: 1fr; } }
"""
"""CSS of all pages; a page appends its own rules."""


def opening(title: str, style: str = "") -> str:
    """The beginning of a page, up to its heading. The page ends with `CLOSING`.

    Args:
        title: plain text.
        style: further CSS rules.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>\n<h1>{escape(title)}</h1>\n"
    )


CLOSING = "</body></html>\n"


def embedded(data: bytes, kind: str) -> str:
    """A picture as a data URL for an `<img>`.

    Args:
        kind: `jpeg` or `png`.
    """
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def figure(jpeg: bytes, name: str, caption: str, *, usable: bool) -> str:
    """One picture of a sample with its name and a caption; usable pictures have a green frame."""
    return (
        f'<figure{" class=usable" if usable else ""}><img alt="{escape(name)}" src="{embedded(jpeg, "jpeg")}">'
        f"<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>"
    )


def truth(picture: Generated) -> str:
    """`usable`, or the issues of a picture, as plain text."""
    if picture.usable:
        return "usable"
    what = ", ".join(sorted(dimension.title for dimension in picture.dimensions)) or "not usable"
    return f"{what}: {picture.comment}" if picture.comment else what


def thumbnail(data: Path, sample: Sample, file: str) -> bytes:
    """A small upright JPEG of one picture. It keeps its proportions, because distorted proportions are a defect.

    Args:
        data: the sample's data directory.
        file: one of `sample.files`.

    Raises:
        DataError: the picture is missing or damaged.
    """
    try:
        image = decode(inspect(read_bytes(data, file)), shrink_to=SIDE)
    except ImageError as error:
        raise DataError(f"{data / file}, sample {sample.id}: {error}") from error
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    target = BytesIO()
    image.save(target, "JPEG", quality=80)
    return target.getvalue()
