"""Turns the model's output into the answer to a request.

`interpret` parses the output once. `compose_answer` then builds the answer of each request that shares it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from opentelemetry.trace import SpanContext

from screening.answer import Answer, Mode, Unreadable
from screening.boxes import Frame
from screening.calibration import UNCALIBRATED
from screening.checkpoint.domain import PICTURE_NAMES, strange_pictures
from screening.decision import picture_verdicts, read_decision
from screening.task import NONE
from service.engines.protocol import Generated, LoadedCheckpoint
from service.metrics import Metrics
from service.schemas import AnswerWarning, CheckpointName, OptionAnswer, ScreenAnswer, Timings, Usage
from service.tracing import current_context

Source = Literal["engine", "shared", "cache"]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """The parsed output of the model, without the log-probabilities of its tokens, which need much memory."""

    parsed: Answer | Unreadable
    choice: str | None
    confidence: float
    probabilities: Mapping[str, float]
    """Calibrated probabilities of the options and of `N`, as far as they could be read."""
    mode: Mode
    prompt_tokens: int
    completion_tokens: int
    checkpoint: LoadedCheckpoint
    """The checkpoint that produced the output."""
    warnings: tuple[AnswerWarning, ...] = ()
    span: SpanContext | None = None
    """Span of the request for which the model wrote the output; None if it is not traced."""
    located: bool = False
    """Whether the model was asked where the issues are. The regions of `parsed` are on the pictures that were sent."""

    @property
    def readable(self) -> bool:
        return isinstance(self.parsed, Answer)

    def needs_review(self, review_below: float) -> bool:
        """Whether a person should review the answer, given the threshold of the operator or the caller."""
        return not self.readable or bool(self.warnings) or self.confidence < review_below


def interpret(generated: Generated, mode: Mode, frames: Sequence[Frame] | None = None) -> Interpretation:
    """Parse the model's output and compute its confidence. Output that cannot be parsed has no choice.

    Args:
        frames: of original, A, B, C, D if the model was asked where the issues are; otherwise None.
    """
    checkpoint = generated.checkpoint
    warnings = domain_warnings(generated)
    decision = read_decision(
        generated.text,
        generated.steps,
        mode,
        watched=checkpoint.watched,
        calibration=checkpoint.calibration.get(mode, UNCALIBRATED),
        dimensions=checkpoint.dimensions,
        confidence_cap=checkpoint.domain.confidence_cap if checkpoint.domain and warnings else 1.0,
        frames=None if frames is None else frames[1:],
    )
    return Interpretation(
        decision.parsed,
        decision.choice,
        decision.confidence,
        decision.probabilities,
        mode,
        generated.prompt_tokens,
        generated.completion_tokens,
        checkpoint,
        warnings,
        current_context(),
        frames is not None,
    )


def count_output(generated: Generated, interpretation: Interpretation, review_below: float, metrics: Metrics) -> None:
    """Record an output of the model in the metrics.

    Args:
        review_below: the operator's threshold.
    """
    parsed, mode = interpretation.parsed, interpretation.mode
    metrics.tokens.labels("prompt").inc(generated.prompt_tokens)
    metrics.tokens.labels("completion").inc(generated.completion_tokens)
    if isinstance(parsed, Unreadable):
        metrics.unreadable.labels(parsed.reason.value, mode.value).inc()
    else:
        metrics.choices.labels(interpretation.choice, mode.value).inc()
        metrics.confidence.observe(interpretation.confidence)
    if interpretation.located and isinstance(parsed, Answer):
        metrics.boxes.labels("given").inc(sum(len(finding.regions) for finding in parsed.findings))
        metrics.boxes.labels("dropped").inc(sum(finding.dropped_boxes for finding in parsed.findings))
    if generated.domain_scores is not None:
        metrics.domain_score.observe(max(generated.domain_scores))
    for warning in interpretation.warnings:
        metrics.out_of_domain.labels(warning.code).inc()
    if interpretation.needs_review(review_below):
        metrics.needs_review.inc()


def domain_warnings(generated: Generated) -> tuple[AnswerWarning, ...]:
    """Return a warning if pictures are unlike the checkpoint's training data, or if this could not be determined."""
    if (rule := generated.checkpoint.domain) is None:
        return ()
    if generated.domain_scores is None:
        detail = "The service could not determine whether the pictures resemble the training data of the checkpoint."
        return (_warning("domain-unknown", detail, PICTURE_NAMES, None),)
    if not (strange := strange_pictures(generated.domain_scores)):
        return ()
    detail = (
        f"{', '.join(strange)}: unlike the training data of the checkpoint ({rule.trained_on}). "
        "Its answer and confidence are not reliable for these pictures."
    )
    return (_warning("out-of-domain", detail, strange, round(max(generated.domain_scores), 3)),)


def _warning(code: str, detail: str, pictures: Sequence[str], score: float | None) -> AnswerWarning:
    fields = {"code": code, "detail": detail, "pictures": list(pictures), "score": score}
    return AnswerWarning.model_validate(fields)


def size_of(interpretation: Interpretation) -> int:
    """Upper estimate of the memory in bytes, without the checkpoint, which the engine holds anyway."""
    parsed = interpretation.parsed
    if isinstance(parsed, Unreadable):
        return 512 + sys.getsizeof(parsed.detail)
    return (
        1280
        + (0 if interpretation.span is None else 384)
        + 512 * len(interpretation.warnings)
        + sys.getsizeof(parsed.reasoning)
        + sum(384 + sys.getsizeof(finding.comment) for finding in parsed.findings)
        + sum(384 * len(finding.regions) for finding in parsed.findings)
    )


def compose_answer(
    interpretation: Interpretation,
    *,
    answer_id: str,
    source: Source,
    timings: Timings,
    engine: str,
    metadata: dict[str, Any],
    review_below: float,
) -> ScreenAnswer:
    """Build the answer to one request, with that request's threshold for `needs_review`."""
    parsed, checkpoint = interpretation.parsed, interpretation.checkpoint
    return ScreenAnswer.model_validate(
        {
            "id": answer_id,
            "outcome": "answered" if interpretation.readable else "unreadable",
            "unreadable_reason": parsed.reason.value if isinstance(parsed, Unreadable) else None,
            "choice": interpretation.choice,
            "acceptable": sorted(parsed.options) if isinstance(parsed, Answer) else [],
            "reasoning": parsed.reasoning if isinstance(parsed, Answer) else None,
            "options": _options(interpretation),
            "none_probability": interpretation.probabilities.get(NONE),
            "confidence": interpretation.confidence,
            "needs_review": interpretation.needs_review(review_below),
            "warnings": list(interpretation.warnings),
            "mode": interpretation.mode,
            "checkpoint": CheckpointName(name=checkpoint.name, version=checkpoint.version, digest=checkpoint.digest),
            "engine": engine,
            "source": source,
            "timings": timings,
            "usage": Usage(
                prompt_tokens=interpretation.prompt_tokens, completion_tokens=interpretation.completion_tokens
            ),
            "metadata": metadata,
        }
    )


def _options(interpretation: Interpretation) -> list[OptionAnswer]:
    verdicts = picture_verdicts(interpretation.parsed, interpretation.probabilities)
    return [
        OptionAnswer.model_validate(
            {**asdict(one), "regions": [each.as_json() for each in one.regions] if interpretation.located else None}
        )
        for one in verdicts
    ]
