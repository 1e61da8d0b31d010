"""Turns a model's output into the decision that is reported: the choice, its confidence, and a verdict on each picture.

The service and the trainer share it, so that a question gets the same decision in a request and in a data set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from screening.answer import Answer, Mode, Region, Unreadable, on_pictures, parse
from screening.boxes import Frame
from screening.calibration import Calibration
from screening.confidence import decide, option_probabilities
from screening.inference.generation import Step, Watched
from screening.task import OPTIONS, Dimension


@dataclass(frozen=True, slots=True)
class PictureVerdict:
    """What a decision says about one generated picture."""

    option: str
    usable: bool
    """Whether the option is among those that the answer names."""
    probability: float | None
    """Calibrated probability that the picture may be shown; None if it could not be read."""
    issues: tuple[Dimension, ...]
    """What the model's sentence names as wrong. Normally empty for a usable picture, but the sentence may contradict
    the letters; always empty in direct mode."""
    comment: str | None
    """The model's sentence about the picture; None in direct mode."""
    regions: tuple[Region, ...] = ()
    """Where its issues are; empty if the model was not asked or wrote no place."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A parsed output. An unreadable one has no choice and confidence 0."""

    parsed: Answer | Unreadable
    choice: str | None
    confidence: float
    probabilities: Mapping[str, float]
    """Calibrated probabilities of the options and of `N`, as far as they could be read."""


def read_decision(
    text: str,
    steps: Sequence[Step],
    mode: Mode,
    *,
    watched: Watched,
    calibration: Calibration,
    dimensions: Collection[Dimension],
    confidence_cap: float = 1.0,
    frames: Sequence[Frame] | None = None,
) -> Decision:
    """Parse a model's output and compute its confidence.

    Args:
        text, steps: the output, and its tokens with their log-probabilities.
        calibration: that of the checkpoint for the mode.
        dimensions: those that the checkpoint was trained on.
        confidence_cap: maximum confidence, for pictures that are not of the checkpoint's domain.
        frames: of A, B, C, D if the model was asked where the faults are, so that regions are on the pictures.
    """
    parsed = parse(text, mode, dimensions)
    if isinstance(parsed, Unreadable):
        return Decision(parsed, None, 0.0, {})
    if frames is not None:
        parsed = on_pictures(parsed, dict(zip(OPTIONS, frames, strict=True)))
    judgement = decide(parsed, steps, watched, calibration)
    confidence = min(confidence_cap, judgement.confidence)
    return Decision(parsed, judgement.choice, confidence, option_probabilities(judgement, calibration))


def picture_verdicts(parsed: Answer | Unreadable, probabilities: Mapping[str, float]) -> list[PictureVerdict]:
    """Return one verdict per generated picture, even for pictures that the reasoning does not mention."""
    findings = {finding.option: finding for finding in parsed.findings} if isinstance(parsed, Answer) else {}
    verdicts = []
    for option in OPTIONS:
        finding = findings.get(option)
        verdicts.append(
            PictureVerdict(
                option=option,
                usable=isinstance(parsed, Answer) and option in parsed.options,
                probability=probabilities.get(option),
                issues=tuple(sorted(finding.dimensions or ())) if finding else (),
                comment=finding.text if finding else None,
                regions=finding.regions if finding else (),
            )
        )
    return verdicts
