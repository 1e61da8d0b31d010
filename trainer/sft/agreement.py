"""Does the reasoning that a model is to learn lead to the label beside it?

A reasoning that says "I chose B" above the label A teaches a model to contradict itself, and its own answers are then
worth nothing to a reader. `annotate` lets none pass; data from elsewhere may hold some.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from screening.answer import Unreadable, parse_options
from screening.task import Options, options_text
from trainer.records import DataError, Sample

SHOWN = 3
"""Samples that a complaint names."""

_LETTERS = r"(?P<letters>(?:[A-DN](?![A-Za-z'])(?:[\s,;/&+]|and\b)*)+|none\b|nothing\b)"
_CONCLUSION = re.compile(
    rf"\b(?:ultimately ch(?:o|oo)se|(?:final )?(?:answer|choice) is|conclude that the answer is)[\s:]+"
    rf"(?:options? |pictures? )?<?{_LETTERS}",
    re.IGNORECASE,
)


def concluded(reasoning: str) -> Options | None:
    """The options that a reasoning ends with; None where it states none in words that are known here."""
    found = list(_CONCLUSION.finditer(reasoning))
    if not found:
        return None
    letters = found[-1]["letters"]
    if letters.lower() in ("none", "nothing"):
        return frozenset()
    options = parse_options(re.sub(r"\band\b", " ", letters, flags=re.IGNORECASE))
    return None if isinstance(options, Unreadable) else options


def contradictions(samples: Sequence[Sample]) -> list[tuple[Sample, Options]]:
    """Samples whose reasoning concludes other options than the label, and what it concludes."""
    stated = ((sample, concluded(sample.reasoning)) for sample in samples)
    return [(sample, options) for sample, options in stated if options is not None and options != sample.options]


def see_that_reasoning_agrees(samples: Sequence[Sample], *, strict: bool) -> None:
    """Report reasonings that contradict their label.

    Args:
        strict: refuse them, as for stage 1.2, whose reasoning was written for the known label. Otherwise warn, as for
            stage 1.1, whose reasoning is known to be mostly wrong.

    Raises:
        DataError: there are some, and they are not wanted.
    """
    found = contradictions(samples)
    if not found:
        return
    shown = ", ".join(f"{one.id} (label {one.label}, concludes {options_text(said)})" for one, said in found[:SHOWN])
    more = ", …" if len(found) > SHOWN else ""
    told = f"the reasoning of {len(found)} of {len(samples)} samples concludes otherwise than its label: {shown}{more}"
    if strict:
        raise DataError(
            f"{told}. Correct or remove them; `annotate answer-driven` writes reasoning that fits the label"
        )
    print(f"warning: {told}", file=sys.stderr)
