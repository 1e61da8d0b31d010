"""Checks that the reasoning of training samples concludes with their labels and names known dimensions.

A reasoning that says "I chose B" for the label A teaches a model to contradict itself, and a reader cannot trust its
reasoning then. `annotate` never writes such reasoning, but other data may contain it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence

from screening.answer import Unreadable, parse_findings, parse_options
from screening.task import Dimension, Options, options_text
from trainer.data_directory import DataError
from trainer.records import Sample

SHOWN = 3
"""Maximum number of samples that a message names."""

_MARKS = re.compile(r"</?answer>|[*_`\"“”‘’()\[\]<>]")
"""Markdown, quotes and brackets that may surround an option."""
_NOUN = r"(?:options?|pictures?|images?|candidates?|choices?|one)"
_STATED = (
    rf"(?:ultimately|finally|therefore|thus|hence|so)[\s,]+(?:I\s+)?(?:would\s+)?{{verb}}"
    rf"|\bI\s+(?:will\s+|would\s+|therefore\s+|finally\s+)?{{verb}}"
    rf"|(?:answer|choice|conclusion|(?:best|only\s+usable|correct|right)\s+{_NOUN})\s*(?:is|are|:|is\s*:)"
).format(verb=r"(?:ch(?:o|oo)se|pick(?:ed)?|select(?:ed)?)")
_LIST = r"(?P<letters>[A-DN](?![\w'])(?:(?:[\s,;/&+]|\b(?:and|or)\b)+[A-DN](?![\w'])|[A-D](?![\w']))*|[A-D]{2,4}\b)"
_SMALL = r"(?P<small>[a-dn]{1,4}(?:(?:[\s,;/&+]|\band\b)+[a-dn])*)(?=\s*(?:[.;!,]|$))"
_NONE = r"(?P<none>none|nothing|neither|no\s+(?:option|picture|image|candidate)s?)\b"
_CONCLUSION = re.compile(
    rf"\b(?:(?i:{_STATED})[\s:]+(?i:(?:only|both|the|{_NOUN})\s+)*(?:{_LIST}|{_SMALL}|(?i:{_NONE}))"
    rf"|(?P<unusable>(?i:(?:none\s+of\s+the|no)\s+(?:four\s+)?{_NOUN}\s+(?:is|are|can\s+be)\s+"
    r"(?:usable|acceptable|suitable|used|shown|chosen)\b)))"
)
"""Matches a stated conclusion. Small letters count only at the end of a clause: in "the answer is a bottle" `a` is a
word."""


def concluded(reasoning: str) -> Options | None:
    """The options that a reasoning concludes with; None if it states none in known words."""
    found = list(_CONCLUSION.finditer(_MARKS.sub(" ", reasoning)))
    if not found:
        return None
    last = found[-1]
    if last["none"] or last["unusable"]:
        return frozenset()
    words = (last["letters"] or last["small"]).replace("and", " ")
    options = parse_options(words)  # "A or B" is not a decision, and the parser refuses it
    return None if isinstance(options, Unreadable) else options


def contradictions(samples: Sequence[Sample]) -> list[tuple[Sample, Options]]:
    """Samples whose reasoning concludes with options other than the label, and these options."""
    stated = ((sample, concluded(sample.reasoning)) for sample in samples)
    return [(sample, options) for sample, options in stated if options is not None and options != sample.options]


def check_reasoning(samples: Sequence[Sample], *, strict: bool) -> None:
    """Report samples whose reasoning contradicts the label.

    Args:
        strict: refuse such samples, as in stage 1.2, whose reasoning was written for the known label. Otherwise only
            warn, as in stage 1.1, whose reasoning is known to be mostly wrong.

    Raises:
        DataError: `strict` is set and there are such samples.
    """
    found = contradictions(samples)
    if not found:
        return
    shown = ", ".join(f"{one.id} (label {one.label}, concludes {options_text(said)})" for one, said in found[:SHOWN])
    more = ", …" if len(found) > SHOWN else ""
    told = f"the reasoning of {len(found)} of {len(samples)} samples contradicts the label: {shown}{more}"
    if strict:
        raise DataError(
            f"{told}. Correct or remove them. `annotate answer-driven` writes reasoning that fits the label"
        )
    print(f"warning: {told}", file=sys.stderr)


def check_dimensions(samples: Sequence[Sample], dimensions: Collection[Dimension]) -> None:
    """Refuse reasoning with a verdict that the trained checkpoint could not give.

    Args:
        dimensions: the dimensions of the checkpoint that training starts from.

    Raises:
        DataError: the reasoning of a sample names another dimension.
    """
    for sample in samples:
        for finding in parse_findings(sample.reasoning):
            if other := sorted((finding.dimensions or frozenset()) - frozenset(dimensions)):
                raise DataError(
                    f"the reasoning of sample {sample.id} names {other[0]}, but the checkpoint was trained on "
                    f"{', '.join(dimensions)} only. Start from a base "
                    "model: `trainer import` gives a checkpoint all dimensions"
                )
