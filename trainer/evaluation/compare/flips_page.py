"""`flips.html`: a page that shows every flipped sample with its pictures and both answers."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from screening.task import OPTIONS
from trainer.evaluation.compare.pairs import Pairs
from trainer.evaluation.compare.report import Comparison, Direction, Flip, GivenAnswer
from trainer.records import Sample
from trainer.runs.html import CLOSING, figure, opening, thumbnail, truth

SHOWN = 250
"""Maximum number of flips of each direction on the page, which keeps it below tens of megabytes. `comparison.json` has
all flips."""

_STYLE = """
article { border-left: 5px solid; }
.right_to_wrong { border-left-color: var(--worse); }
.wrong_to_right { border-left-color: var(--better); }
.right_to_wrong .direction { color: var(--worse); }
.wrong_to_right .direction { color: var(--better); }
.wrong b { color: var(--worse); }
.right b { color: var(--better); }
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
    models = f"{one.before.title} → {one.after.title}"
    yield (
        f"{opening(f'Flips: {models}, {one.asked}', _STYLE)}"
        f'<p class="soft">{one.data.evaluated} samples; data {escape(one.data.digest)}. '
        f"Usable pictures have a green frame.{'' if data else ' Pictures need --data.'}</p>\n"
    )
    for direction in Direction:  # answers that got worse come first
        flips = [flip for flip in one.flips if flip.direction is direction]
        yield f"<h2>{escape(direction.title)}: {len(flips)}</h2>\n"
        if len(flips) > SHOWN:
            yield f'<p class="soft">The first {SHOWN} are shown; comparison.json lists all.</p>\n'
        for flip in flips[:SHOWN]:
            yield _article(flip, samples.get(flip.id), data)
    yield CLOSING


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
    figures = [figure(thumbnail(data, sample, sample.original.file), "original", "", usable=False)]
    for picture in sample.generated:
        named = _named_by(flip, picture.option)
        caption = f"{truth(picture)}{f' · named {named}' if named else ''}"
        small = thumbnail(data, sample, picture.file)
        figures.append(figure(small, picture.option, caption, usable=picture.usable))
    return f'<div class="pictures">{"".join(figures)}</div>\n'


def _named_by(flip: Flip, option: str) -> str:
    """Which of the two answers offer this picture, for its caption."""
    answers = (("before", flip.before), ("after", flip.after))
    return " and ".join(name for name, answer in answers if option in OPTIONS and option in (answer.options or ""))


def _answer(name: str, answer: GivenAnswer, *, right: bool) -> str:
    known = answer.choice is not None and answer.confidence is not None
    confidence = f", choice {answer.choice}, confidence {answer.confidence:.2f}" if known else ""
    words = answer.text if answer.reasoning is None else answer.reasoning
    return (
        f'<section class="{"right" if right else "wrong"}"><p>{name}: <b>{escape(answer.title)}</b> '
        f'<span class="soft">{"right" if right else "wrong"}{escape(confidence)}</span></p>'
        f"<p>{escape(words)}</p></section>"
    )
