"""Prompts for the teacher (after section 3.2 and appendix B of the paper, in our own words).

The task and the form of the answer are those of `screening.prompt.STANDARD`, because the student learns to write what
the teacher writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from screening.answer import verdict_text
from screening.prompt import STANDARD
from screening.task import OPTIONS
from trainer.records import Sample

PLACES: tuple[str, ...] = ("original", *OPTIONS)
"""The five pictures of a question, in order."""


@dataclass(frozen=True, slots=True)
class PictureOf:
    """Placeholder in a message for one of the five pictures."""

    place: str


Part = str | PictureOf

DESCRIBE = """\
Describe this product picture in two or three plain sentences: the product (what it is, its shape, colours and parts, \
how many there are, every word and number on it), what it stands on, what else is there, from which side the light \
comes and where the shadows fall. Say only what can be seen. Do not judge, and do not say whether the picture is real. \
Write the description alone, as plain text without headings."""

_DESCRIBED = """\
Before each picture stands the description that you gave of it when you saw it alone. Compare the descriptions with \
one another and with the pictures; where they differ from a picture, the picture is right."""

_KNOWN = """\
People have already looked at these pictures and decided. {decision} They are right. Write the thinking that leads to \
this answer, as somebody who looks at the pictures now and finds out for themselves: say what can be seen and why it \
matters. Do not say or hint that the answer was known before."""

_ISSUES = "They found the following, and your verdicts must name exactly these issues: {issues}."

_AGAIN = "An earlier reply to this question could not be used. {hint} Write the whole reply again."


def describe(place: str, hint: str = "") -> tuple[Part, ...]:
    """Ask for the description of one picture (progressive, first step).

    Args:
        hint: the problem with the previous reply; empty the first time.
    """
    return (DESCRIBE, PictureOf(place), *_again(hint))


def reason_from(descriptions: Mapping[str, str], hint: str = "") -> tuple[Part, ...]:
    """Ask for the reasoning, with the teacher's own descriptions (progressive, second step).

    Args:
        descriptions: place → the teacher's description of that picture.
        hint: the problem with the previous reply; empty the first time.
    """
    parts: list[Part] = [f"{STANDARD.cot}\n\n{_DESCRIBED}"]
    for place in PLACES:
        parts += [f"{_title(place)} Your description: {descriptions[place]}", PictureOf(place)]
    return (*parts, *_again(hint))


def reason_towards(truth: Sample, *, reveal_issues: bool, hint: str = "") -> tuple[Part, ...]:
    """Ask for the reasoning that leads to the given answer (answer-driven).

    Args:
        reveal_issues: tell the issues of each picture too, not only the label.
        hint: the problem with the previous reply; empty the first time.
    """
    known = _KNOWN.format(decision=_decision(truth))
    if reveal_issues:
        verdicts = (f"{picture.option} {verdict_text(picture.dimensions)}" for picture in truth.generated)
        known += " " + _ISSUES.format(issues=", ".join(verdicts))
    parts: list[Part] = [STANDARD.cot]
    for place in PLACES:
        parts += [_title(place), PictureOf(place)]
    # Placed after the pictures: all questions then share a prefix, and models give more weight to what they read last.
    return (*parts, known, *_again(hint))


def digest() -> str:
    """A version that changes with every prompt text, so that replies to different prompts are never mixed."""
    texts = (STANDARD.cot, DESCRIBE, _DESCRIBED, _KNOWN, _ISSUES, _AGAIN)
    return f"sha256:{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()}"


def _title(place: str) -> str:
    return f"{place.capitalize()}:"


def _decision(truth: Sample) -> str:
    if not truth.options:
        return "None of the pictures may be shown: the answer is N."
    others = [option for option in OPTIONS if option not in truth.options]
    rest = f"; {_listing(others)} may not" if others else ""
    return f"{_listing(sorted(truth.options))} may be shown{rest}: the answer is {truth.label}."


def _listing(options: Sequence[str]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} and {options[-1]}"


def _again(hint: str) -> tuple[Part, ...]:
    return (_AGAIN.format(hint=hint),) if hint else ()
