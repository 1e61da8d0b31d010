"""From the model's text to the answer. What is judged once can be given to many: each answer has its own envelope."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from screening.answer import Answer, Mode, Unreadable, parse
from screening.calibration import UNCALIBRATED
from screening.checkpoint.domain import PICTURE_NAMES, strange_pictures
from screening.confidence import judge as judge_confidence
from screening.confidence import option_probabilities
from screening.task import NONE, OPTIONS
from service.engines.protocol import Generated, LoadedCheckpoint
from service.metrics import Metrics
from service.schemas import AnswerWarning, CheckpointName, OptionAnswer, ScreenAnswer, Timings, Usage

Source = Literal["engine", "shared", "cache"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model's text says, without the tokens' log-probabilities, which are large and used up."""

    read: Answer | Unreadable
    choice: str | None
    confidence: float
    probabilities: Mapping[str, float]
    """Calibrated, by option and for `N`; without those that could not be read."""
    mode: Mode
    prompt_tokens: int
    completion_tokens: int
    contract: LoadedCheckpoint
    """The checkpoint that wrote it."""
    warnings: tuple[AnswerWarning, ...] = ()

    @property
    def readable(self) -> bool:
        return isinstance(self.read, Answer)

    def needs_review(self, review_below: float) -> bool:
        """Whether a person should look at it, by a threshold that the operator or the caller chose."""
        return not self.readable or bool(self.warnings) or self.confidence < review_below


def judge(generated: Generated, mode: Mode, *, review_below: float, metrics: Metrics) -> Judged:
    """Read the model's text; what is not understood stays without a choice. Counts what the model wrote.

    Args:
        review_below: the operator's threshold, for the metric.
    """
    contract = generated.checkpoint
    metrics.tokens.labels("prompt").inc(generated.prompt_tokens)
    metrics.tokens.labels("completion").inc(generated.completion_tokens)
    read = parse(generated.text, mode)
    warnings = domain_warnings(generated)
    if isinstance(read, Unreadable):
        metrics.unreadable.labels(read.reason.value, mode.value).inc()
        choice, confidence, probabilities = None, 0.0, {}
    else:
        calibration = contract.calibration.get(mode, UNCALIBRATED)
        judgement = judge_confidence(read, generated.steps, contract.watched, calibration)
        choice, confidence = judgement.choice, judgement.confidence
        probabilities = option_probabilities(judgement, calibration)
        if warnings and contract.domain is not None:
            confidence = min(confidence, contract.domain.confidence_cap)
        metrics.choices.labels(choice, mode.value).inc()
        metrics.confidence.observe(confidence)
    if generated.domain_scores is not None:
        metrics.domain_score.observe(max(generated.domain_scores))
    for warning in warnings:
        metrics.out_of_domain.labels(warning.code).inc()
    judged = Judged(
        read,
        choice,
        confidence,
        probabilities,
        mode,
        generated.prompt_tokens,
        generated.completion_tokens,
        contract,
        warnings,
    )
    if judged.needs_review(review_below):
        metrics.needs_review.inc()
    return judged


def domain_warnings(generated: Generated) -> tuple[AnswerWarning, ...]:
    """At most one: which pictures are unlike those that the checkpoint was trained on, or that this is not known."""
    if (rule := generated.checkpoint.domain) is None:
        return ()
    if generated.domain_scores is None:
        detail = "Whether the pictures are like those that the checkpoint was trained on could not be determined."
        return (_warning("domain-unknown", detail, PICTURE_NAMES, None),)
    if not (strange := strange_pictures(generated.domain_scores)):
        return ()
    detail = (
        f"{', '.join(strange)}: unlike the pictures that the checkpoint was trained on ({rule.trained_on}). "
        "Its answer and confidence mean little here."
    )
    return (_warning("out-of-domain", detail, strange, round(max(generated.domain_scores), 3)),)


def _warning(code: str, detail: str, pictures: Sequence[str], score: float | None) -> AnswerWarning:
    fields = {"code": code, "detail": detail, "pictures": list(pictures), "score": score}
    return AnswerWarning.model_validate(fields)


def size_of(judged: Judged) -> int:
    """Bytes in memory, rather too many than too few; the contract is the engine's and not counted."""
    if isinstance(judged.read, Unreadable):
        return 512 + sys.getsizeof(judged.read.detail)
    return (
        1280
        + 512 * len(judged.warnings)
        + sys.getsizeof(judged.read.reasoning)
        + sum(384 + sys.getsizeof(finding.comment) for finding in judged.read.findings)
    )


def compose_answer(
    judged: Judged,
    *,
    identity: str,
    source: Source,
    timings: Timings,
    engine: str,
    metadata: dict[str, Any],
    review_below: float,
) -> ScreenAnswer:
    """One caller's answer, with the caller's threshold for `needs_review`."""
    read, contract = judged.read, judged.contract
    return ScreenAnswer.model_validate(
        {
            "id": identity,
            "outcome": "answered" if judged.readable else "unreadable",
            "unreadable_reason": read.reason.value if isinstance(read, Unreadable) else None,
            "choice": judged.choice,
            "acceptable": sorted(read.options) if isinstance(read, Answer) else [],
            "reasoning": read.reasoning if isinstance(read, Answer) else None,
            "options": _options(read, judged.probabilities),
            "none_probability": judged.probabilities.get(NONE),
            "confidence": judged.confidence,
            "needs_review": judged.needs_review(review_below),
            "warnings": list(judged.warnings),
            "mode": judged.mode,
            "checkpoint": CheckpointName(name=contract.name, version=contract.version, digest=contract.digest),
            "engine": engine,
            "source": source,
            "timings": timings,
            "usage": Usage(prompt_tokens=judged.prompt_tokens, completion_tokens=judged.completion_tokens),
            "metadata": metadata,
        }
    )


def _options(read: Answer | Unreadable, probabilities: Mapping[str, float]) -> list[OptionAnswer]:
    """One entry per generated picture, whatever the reasoning says or leaves out."""
    findings = {finding.option: finding for finding in read.findings} if isinstance(read, Answer) else {}
    options = []
    for option in OPTIONS:
        finding = findings.get(option)
        issues = sorted(finding.dimensions or ()) if finding else []
        usable = isinstance(read, Answer) and option in read.options
        options.append(
            OptionAnswer.model_validate(
                {
                    "option": option,
                    "usable": usable,
                    "probability": probabilities.get(option),
                    "issues": issues,
                    "comment": finding.text if finding else None,
                }
            )
        )
    return options
