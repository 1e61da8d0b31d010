"""`flips.html`: every flipped sample to look at, in one file without scripts or outside addresses.

Whatever comes from a model or a data directory is escaped; a content security policy forbids all but the page's own
style and embedded pictures.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from screening.errors import ImageError
from screening.images import decode, inspect
from screening.task import OPTIONS
from trainer.compare.pairs import Pairs
from trainer.compare.report import Comparison, Direction, Flip, GivenAnswer
from trainer.records import DataError, Generated, Sample, read_bytes

SIDE = 200
"""Longer side of a picture on the page, in pixels; about 8 KB each."""
SHOWN = 250
"""Flips of each direction on the page. More would make a page of tens of megabytes; `comparison.json` has them all."""

_STYLE = """
:root { color-scheme: light; --ink: #1d2329; --soft: #59636e; --line: #d5dbe1; --worse: #b3261e; --better: #1b6b3a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 1.5rem; color: var(--ink); background: #f5f7f9;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.soft { color: var(--soft); overflow-wrap: anywhere; }
article { background: #fff; border: 1px solid var(--line); border-left: 5px solid; border-radius: 6px;
  padding: 1rem; margin: 0 0 1rem; }
.right_to_wrong { border-left-color: var(--worse); }
.wrong_to_right { border-left-color: var(--better); }
.right_to_wrong .direction { color: var(--worse); }
.wrong_to_right .direction { color: var(--better); }
h3 { font-size: 1rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(5, 1fr); gap: .6rem; margin: 0 0 .8rem; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; border: 3px solid var(--line); }
figure.usable img { border-color: var(--better); }
figcaption { font-size: .8rem; margin-top: .2rem; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
.answers section { border-top: 1px solid var(--line); padding-top: .4rem; min-width: 0; }
.answers p { margin: 0 0 .3rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.wrong b { color: var(--worse); }
.right b { color: var(--better); }
@media (max-width: 44rem) { .pictures { grid-template-columns: repeat(3, 1fr); }
  .answers { grid-template-columns: 1fr; } }
"""


def flips_page(comparison: Comparison, pairs: Pairs, data: Path | None) -> str:
    """The page as HTML.

    Args:
        data: the data directory; without it the page has no pictures.

    Raises:
        DataError: a picture is missing or damaged.
    """
    return "".join(_page(comparison, {p.before.id: p.sample for p in pairs.pairs if p.sample}, data))


def _page(comparison: Comparison, samples: dict[str, Sample], data: Path | None) -> Iterator[str]:
    one = comparison
    models = f"{one.before.name} {one.before.version} → {one.after.name} {one.after.version}"
    title = escape(f"Flips: {models}, {one.mode}")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f'<p class="soft">{one.data.evaluated} samples; data {escape(one.data.digest)}. A green frame: usable.'
        f"{'' if data else ' The data directory was not given, so there are no pictures.'}</p>\n"
    )
    for direction in Direction:  # what got worse comes first
        flips = [flip for flip in one.flips if flip.direction is direction]
        yield f"<h2>{escape(direction.title)}: {len(flips)}</h2>\n"
        if len(flips) > SHOWN:
            yield f'<p class="soft">The first {SHOWN} are shown; comparison.json lists all.</p>\n'
        for flip in flips[:SHOWN]:
            yield _article(flip, samples.get(flip.id), data)
    yield "</body></html>\n"


def _article(flip: Flip, sample: Sample | None, data: Path | None) -> str:
    shown = ", ".join(d.title for d in flip.dimensions or ()) or "none"
    dimensions = "" if flip.dimensions is None else f" · {escape(shown)}"
    worse = flip.direction is Direction.WORSE
    return (
        f'<article class="{flip.direction}"><h3><span class="direction">{escape(flip.direction.title)}</span> · '
        f"{escape(flip.id)} · label {escape(flip.label)}{dimensions}</h3>\n"
        f"{_pictures(flip, sample, data) if sample and data else ''}"
        f'<div class="answers">{_answer("before", flip.before, right=worse)}'
        f"{_answer('after', flip.after, right=not worse)}</div></article>\n"
    )


def _pictures(flip: Flip, sample: Sample, data: Path) -> str:
    figures = [_figure(data, sample, sample.original.file, "original", "", usable=False)]
    for picture in sample.generated:
        named = _named_by(flip, picture.option)
        caption = f"{_truth(picture)}{f' · named {named}' if named else ''}"
        figures.append(_figure(data, sample, picture.file, picture.option, caption, usable=picture.usable))
    return f'<div class="pictures">{"".join(figures)}</div>\n'


def _truth(picture: Generated) -> str:
    """`usable`, or what is wrong."""
    if picture.usable:
        return "usable"
    what = ", ".join(sorted(dimension.title for dimension in picture.dimensions))
    return f"{what}: {picture.comment}" if picture.comment else what


def _named_by(flip: Flip, option: str) -> str:
    """Which of the answers offer this picture."""
    answers = (("before", flip.before), ("after", flip.after))
    return " and ".join(name for name, answer in answers if option in OPTIONS and option in (answer.options or ""))


def _figure(data: Path, sample: Sample, file: str, name: str, caption: str, *, usable: bool) -> str:
    picture = f"data:image/jpeg;base64,{b64encode(_thumbnail(data, sample, file)).decode()}"
    return (
        f'<figure{" class=usable" if usable else ""}><img alt="{escape(name)}" src="{picture}">'
        f"<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>"
    )


def _answer(name: str, answer: GivenAnswer, *, right: bool) -> str:
    confidence = "" if answer.choice is None else f", choice {answer.choice}, confidence {answer.confidence:.2f}"
    words = answer.text if answer.reasoning is None else answer.reasoning
    return (
        f'<section class="{"right" if right else "wrong"}"><p>{name}: <b>{escape(answer.title)}</b> '
        f'<span class="soft">{"right" if right else "wrong"}{escape(confidence)}</span></p>'
        f"<p>{escape(words)}</p></section>"
    )


def _thumbnail(data: Path, sample: Sample, file: str) -> bytes:
    """A small upright JPEG of one picture; its proportions are kept, they are evidence."""
    try:
        image = decode(inspect(read_bytes(data, file)), shrink_to=SIDE)
    except ImageError as error:
        raise DataError(f"{data / file}, sample {sample.id}: {error}") from error
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    target = BytesIO()
    image.save(target, "JPEG", quality=80)
    return target.getvalue()
