"""The one grammar of answers, for serving, evaluation and reward.

Chain of thought (paper, appendix B):

    <think>I observed <A> normal: the product is unchanged, <B> appearance: the cap has another colour,
    <C> shadow + layout: …, <D> normal: …, so I ultimately chose AD.</think><answer>AD</answer>

With boxes: as above, and each sentence that names issues ends with one box per issue, in the order of the dimensions
(`screening.boxes`): `<B> appearance: the cap has another colour <box>[[310, 80, 520, 190]]</box>, …`. What is shown as
reasoning or comment never contains boxes.

Direct: `AD` alone (`<answer>AD</answer>` is understood as well).

`parse` returns `Unreadable` with a reason for text that is not an answer, never a default. Inside the option set it
tolerates any order, case, spaces, commas and repetition, and nothing else. Markers are parsed as text rather than token
ids, because a tag may consist of several tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from screening.boxes import BOX_TAG, Box, Frame, box_text, split_boxes
from screening.task import DIMENSIONS, NONE, NORMAL, OPTIONS, Dimension, Options, dimension_named, options_text


class Mode(StrEnum):
    """How the model answers: think first, or the letters only (paper, section 5.1)."""

    COT = "cot"
    DIRECT = "direct"


class Reason(StrEnum):
    """Why a text is not an answer."""

    EMPTY = "empty"  # nothing but white space
    NO_THINK = "no_think"  # does not begin with one <think>…</think>
    NO_ANSWER = "no_answer"  # no <answer>…</answer> after the thinking, often because of the token limit
    STRAY_TEXT = "stray_text"  # text before, between or after the two parts, or a repeated part
    EMPTY_ANSWER = "empty_answer"  # <answer></answer>
    UNKNOWN_OPTION = "unknown_option"  # a letter or word that is not an option
    CONTRADICTION = "contradiction"  # N together with an option


@dataclass(frozen=True, slots=True)
class Region:
    """Where one issue is: on the padded canvas that the model sees, or after `on_pictures` on the picture itself."""

    dimension: Dimension
    box: Box

    def as_json(self) -> dict[str, Any]:
        """The region as answers report it: the issue, and left, top, right and bottom as fractions of the picture."""
        return {"issue": self.dimension.value, "box": list(self.box)}


@dataclass(frozen=True, slots=True)
class Finding:
    """What the reasoning says about one generated picture.

    `dimensions` is empty for a picture called normal, and None when the sentence names no verdict that we know.
    """

    option: str
    dimensions: frozenset[Dimension] | None
    comment: str
    regions: tuple[Region, ...] = ()
    """Where the named issues are, at most one region per dimension; empty if the model was not asked or wrote none."""
    dropped_boxes: int = 0
    """Number of boxes that belong to no named issue, or are malformed, reversed, empty or out of range."""

    @property
    def text(self) -> str:
        """The finding as it appears in the reasoning after its marker."""
        verdict = verdict_text(self.dimensions)
        return f"{verdict}: {self.comment}" if verdict and self.comment else verdict or self.comment


@dataclass(frozen=True, slots=True)
class Answer:
    """A readable answer. `options` is empty for `N`; `reasoning` is None in direct mode."""

    options: Options
    reasoning: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def text(self) -> str:
        """`AC`, or `N`."""
        return options_text(self.options)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A text that is not an answer, and why. `detail` is a sentence for people."""

    reason: Reason
    detail: str


_TAG = re.compile(r"(</?(?:think|answer)>)")
_COT_TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
_MARKER = re.compile(r"<([A-D])>")
_CONCLUSION = re.compile(r"\bso I ultimately chose\b", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s,;/&+.]+")
_AROUND = " \t\r\n,;"
"""Characters between the sentences about two pictures."""
_VERDICT_SEPARATORS = re.compile(r"[,+&/]|\band\b")


def parse(text: str, mode: Mode, dimensions: Collection[Dimension] = DIMENSIONS) -> Answer | Unreadable:
    """Read a model's whole output.

    Args:
        text: the decoded output, tags included.
        mode: COT requires `<think>…</think><answer>…</answer>`; DIRECT takes bare letters or `<answer>…</answer>`.
        dimensions: those that a verdict may name: a checkpoint's are in its manifest.
    """
    if not text.strip():
        return Unreadable(Reason.EMPTY, "The output is empty.")
    if mode is Mode.DIRECT:
        return _parse_direct(text)
    pieces = _TAG.split(text)  # the tags, and the text between them
    if pieces[1::2] != _COT_TAGS or (pieces[0] + pieces[4] + pieces[8]).strip():
        return _explain(pieces[1::2])
    options = parse_options(pieces[6])
    if isinstance(options, Unreadable):
        return options
    thought = pieces[2].strip()
    return Answer(options, split_boxes(thought)[0].strip(), parse_findings(thought, dimensions))


def parse_options(text: str) -> Options | Unreadable:
    """Read an option set: `AC`, `c, a`, `A A C` → {A, C}; `N` → the empty set."""
    letters = _SEPARATORS.sub("", text).upper()
    if not letters:
        return Unreadable(Reason.EMPTY_ANSWER, "The answer names neither an option nor N.")
    unknown = sorted(set(letters) - set(OPTIONS) - {NONE})
    if unknown:
        return Unreadable(Reason.UNKNOWN_OPTION, f"The answer {text.strip()[:40]!r} is not made of A, B, C, D or N.")
    if NONE in letters and set(letters) != {NONE}:
        return Unreadable(Reason.CONTRADICTION, f"The answer {text.strip()[:40]!r} names N together with an option.")
    return frozenset(letters) - {NONE}


def parse_findings(reasoning: str, among: Collection[Dimension] = DIMENSIONS) -> tuple[Finding, ...]:
    """The sentence about each picture and the dimensions that it names, in the order of the text.

    A picture named several times keeps its first sentence: later mentions are usually comparisons.
    """
    parts = _MARKER.split(reasoning[: _conclusion(reasoning)])[1:]
    findings: dict[str, Finding] = {}
    for option, sentence in zip(parts[::2], parts[1::2], strict=True):
        if option not in findings:
            findings[option] = _finding(option, sentence, among)
    return tuple(findings.values())


def render(answer: Answer, mode: Mode) -> str:
    """Write an answer as the model should. `parse(render(answer, mode), mode) == answer` for answers made by `compose`.

    Raises:
        ValueError: the reasoning is missing in CoT mode or holds one of the grammar's tags.
    """
    if mode is Mode.DIRECT:
        return answer.text
    if answer.reasoning is None:
        raise ValueError("a chain-of-thought answer needs its reasoning")
    return f"<think>{check_reasoning(answer.reasoning)}</think><answer>{answer.text}</answer>"


def check_reasoning(text: str) -> str:
    """Return a reasoning unchanged if `parse` can find its end.

    Raises:
        ValueError: it holds one of the grammar's tags.
    """
    if tag := _TAG.search(text):
        raise ValueError(f"the reasoning must not hold <think> or <answer> tags, and holds {tag[0]}")
    return text


def compose(options: Options, findings: tuple[Finding, ...], opening: str = "") -> Answer:
    """Build a CoT answer from findings: `opening` (a sentence about the original), the four findings, the conclusion.

    Raises:
        ValueError: `parse` would read other findings than these (a comment with a marker or in the words of the
            conclusion, with white space or a comma around it; a verdict hidden in an unknown one; an option twice).
    """
    seen = ", ".join(f"<{f.option}> {f.text}" for f in findings)
    reasoning = f"I observed {seen}, so I ultimately chose {options_text(options)}."
    reasoning = f"{opening.strip()} {reasoning}" if opening.strip() else reasoning
    if (read := parse_findings(reasoning)) != findings:
        raise ValueError(f"the findings {findings!r} would be read back as {read!r}")
    return Answer(options, reasoning, findings)


def with_boxes(reasoning: str, boxes: Mapping[str, Sequence[Box]]) -> str:
    """Write boxes into a reasoning, each after the sentence about its picture.

    Args:
        boxes: option → boxes on the padded canvas, one per named dimension, in the order of the dimensions.
    """
    end = _conclusion(reasoning)
    markers = list(_MARKER.finditer(reasoning, 0, end))
    stops = [*(marker.start() for marker in markers), end][1:]
    parts, done, seen = [], 0, set()
    for marker, stop in zip(markers, stops, strict=True):
        if marker[1] in seen:
            continue
        seen.add(marker[1])
        if written := "".join(map(box_text, boxes.get(marker[1], ()))):
            sentence = reasoning[marker.end() : stop].rstrip(_AROUND)
            parts += [reasoning[done : marker.end()], sentence, " ", written]
            done = marker.end() + len(sentence)
    return "".join([*parts, reasoning[done:]])


def on_pictures(answer: Answer, frames: Mapping[str, Frame]) -> Answer:
    """Convert the regions from the padded canvases to the pictures. Those in the padding are dropped and counted.

    Args:
        frames: option → how its picture lies on the canvas.
    """
    return replace(answer, findings=tuple(_on_picture(one, frames[one.option]) for one in answer.findings))


def _on_picture(finding: Finding, frame: Frame) -> Finding:
    placed = [(region.dimension, frame.on_picture(region.box)) for region in finding.regions]
    regions = tuple(Region(dimension, box) for dimension, box in placed if box is not None)
    dropped = finding.dropped_boxes + len(placed) - len(regions)
    return replace(finding, regions=regions, dropped_boxes=dropped)


def verdict_text(dimensions: frozenset[Dimension] | None) -> str:
    """`normal`, `appearance`, `appearance + shadow`; empty when unknown."""
    if dimensions is None:
        return ""
    return " + ".join(d.short for d in Dimension if d in dimensions) or NORMAL


def _parse_direct(text: str) -> Answer | Unreadable:
    stripped = text.strip()
    tagged = re.fullmatch(r"<answer>(.*?)</answer>", stripped, re.DOTALL)
    options = parse_options(tagged[1] if tagged else stripped)
    return options if isinstance(options, Unreadable) else Answer(options)


def _conclusion(reasoning: str) -> int:
    """Where the conclusion begins, which no marker follows; the end of a reasoning without one."""
    plain = BOX_TAG.sub(lambda tag: " " * len(tag[0]), reasoning)  # a conclusion may contain boxes
    found = _CONCLUSION.search(plain, max(plain.rfind("<"), plain.rfind(">")) + 1)
    return found.start() if found else len(reasoning)


def _explain(tags: Sequence[str]) -> Unreadable:
    """Explain why a text with these tags does not have the CoT form."""
    if "<think>" not in tags or "</think>" not in tags:
        return Unreadable(Reason.NO_THINK, "There is no complete <think>…</think> part.")
    if "<answer>" not in tags or "</answer>" not in tags:
        return Unreadable(Reason.NO_ANSWER, "There is no complete <answer>…</answer> part after the thinking.")
    return Unreadable(Reason.STRAY_TEXT, "The text is not exactly one <think> part followed by one <answer> part.")


def _finding(option: str, sentence: str, among: Collection[Dimension]) -> Finding:
    sentence, boxes = split_boxes(sentence)
    sentence = sentence.strip(_AROUND)
    head, colon, rest = sentence.partition(":")
    dimensions = _verdict(head, among)
    if dimensions is not None:
        return Finding(option, dimensions, rest.strip() if colon else "", *_regions(dimensions, boxes))
    # In free text of a general model, only the full names count. Otherwise "the shadow is right" would be an issue.
    folded = sentence.lower().replace("_", " ")
    named = frozenset(d for d in among if d.title in folded)
    return Finding(option, named or None, sentence, *_regions(named, boxes))


def _regions(dimensions: Collection[Dimension], boxes: Sequence[Box | None]) -> tuple[tuple[Region, ...], int]:
    """Give each named dimension its box, and count the boxes that are left over or not valid."""
    named = [dimension for dimension in Dimension if dimension in dimensions]
    regions = tuple(Region(dimension, box) for dimension, box in zip(named, boxes, strict=False) if box)
    return regions, len(boxes) - len(regions)


def _verdict(head: str, among: Collection[Dimension]) -> frozenset[Dimension] | None:
    """`normal` → {}; `appearance + shadow` → both; anything else → None."""
    folded = head.strip().lower()
    if folded == NORMAL:
        return frozenset()
    named = [dimension_named(word.strip(), among) for word in _VERDICT_SEPARATORS.split(folded)]
    return frozenset(d for d in named if d) if named and all(named) else None
