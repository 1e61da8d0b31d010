"""Parse the teacher's replies with `screening.answer`, and check that their answer agrees with their verdicts.

A sample's label is the set of its usable pictures, and a picture is usable if it has no issue (`trainer.records`). So
a reasoning must give a verdict on each of the four pictures, and its answer must name exactly the pictures that it
calls normal. Any other reasoning would teach the student to contradict itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from screening.answer import Answer, Finding, Mode, Unreadable, parse, parse_options, verdict_text
from screening.task import DIMENSIONS, OPTIONS, options_text
from trainer.data.annotate.replies import Reply
from trainer.records import Sample


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why a reply cannot be used."""

    reason: str
    """Stable name for counting: a `screening.answer.Reason`, or one of those below."""
    detail: str
    """A sentence for reports, which is also the hint for the teacher."""


CUT = Fault("cut", "It was cut off at the limit of its length: write shorter sentences.")
FILTERED = Fault("content_filter", "The endpoint's filter held it back.")
EMPTY = Fault("empty", "It was empty.")
TELLS = Fault("tells", "It hinted that the answer was known before: write as if you found it yourself.")

_CONCLUSION = re.compile(r"\bultimately ch(?:o|oo)se ((?:[A-DN](?![A-Za-z])(?:[\s,;/&+]|and\b)*)+)")
_TELLS = re.compile(
    r"\b(?:ground truth|(?:given|known|provided|expected) (?:answer|decision)"
    r"|people (?:have )?(?:already )?decided|as (?:I was |you )?(?:told|instructed))\b",
    re.IGNORECASE,
)


def read_caption(reply: Reply) -> str | Fault:
    """Parse a description into one line of text."""
    if (fault := _not_given(reply)) is not None:
        return fault
    if reply.finish == "length":
        return CUT
    return " ".join(reply.text.split()) or EMPTY


def read_reasoning(reply: Reply) -> Answer | Fault:
    """Parse a reasoning whose answer and verdicts agree. Its findings are those of A, B, C and D, in order."""
    if (fault := _not_given(reply)) is not None:
        return fault
    result = parse(reply.text, Mode.COT)
    if isinstance(result, Unreadable):
        return CUT if reply.finish == "length" else Fault(result.reason.value, result.detail)
    if (fault := _without_verdict(result) or _contradicts_itself(result)) is not None:
        return fault
    findings = sorted(result.findings, key=lambda finding: finding.option)
    return Answer(result.options, result.reasoning, tuple(findings))


def contradicts_truth(answer: Answer, truth: Sample, *, issues: bool) -> Fault | None:
    """Find a contradiction between a consistent answer and the known truth.

    Args:
        issues: compare the dimensions of each picture too, not only which pictures are usable.
    """
    for finding, picture in zip(answer.findings, truth.generated, strict=True):
        if bool(finding.dimensions) == picture.usable:
            stated = verdict_text(finding.dimensions)
            may = "may be shown" if picture.usable else "may not be shown"
            return Fault("against_label", f"It called picture {finding.option} {stated}, but that one {may}.")
        if issues and finding.dimensions != picture.dimensions:
            stated, known = verdict_text(finding.dimensions), verdict_text(picture.dimensions)
            return Fault(
                "against_issues", f"It said {stated} of picture {finding.option}, whose issues are {known} alone."
            )
    return None


def tells(answer: Answer) -> Fault | None:
    """Find a reasoning that mentions the given answer, since the student will not be given one."""
    return TELLS if _TELLS.search(answer.reasoning or "") else None


def _not_given(reply: Reply) -> Fault | None:
    if reply.refusal is not None:
        return Fault(reply.refusal.reason, reply.refusal.detail)
    return FILTERED if reply.finish == "content_filter" else None


def _without_verdict(answer: Answer) -> Fault | None:
    stated = {finding.option for finding in answer.findings if finding.dimensions is not None}
    for option in OPTIONS:
        if option not in stated:
            return Fault(
                "no_verdict",
                f"It gave no verdict on picture {option}: after <{option}> write `normal` or the names of the issues "
                f"({', '.join(one.short for one in DIMENSIONS)}), then a colon and the sentence.",
            )
    return None


def _contradicts_itself(answer: Answer) -> Fault | None:
    for finding in answer.findings:
        if bool(finding.dimensions) == (finding.option in answer.options):
            return _contradiction(finding, answer)
    concluded = _CONCLUSION.search(answer.reasoning or "")
    options = parse_options(concluded[1].replace("and", " ")) if concluded else answer.options
    if not isinstance(options, Unreadable) and options != answer.options:
        return Fault("self_contradiction", f"It concluded {options_text(options)} but answered {answer.text}.")
    return None


def _contradiction(finding: Finding, answer: Answer) -> Fault:
    stated = verdict_text(finding.dimensions)
    rule = "the answer is the letters of all pictures called normal, and of no other"
    return Fault(
        "self_contradiction", f"It called picture {finding.option} {stated} but answered {answer.text}: {rule}."
    )
