"""A complete run of `annotate ground-truth`."""

from __future__ import annotations

from pathlib import Path

from trainer.data.annotate.ground_truth import GroundTruth
from trainer.data.annotate.method import Accepted, Step
from trainer.data.annotate.output import write_output
from trainer.data.annotate.report import Report, begin, summary
from trainer.records import Sample


def annotate_from_truth(data: Path, out: Path, *, seed: int, error_rate: float, limit: int | None = None) -> Report:
    """Annotate from the truth in the data. This takes seconds, so a killed run simply starts again.

    Raises:
        AnnotationError, DataError, RunMismatch: see `annotate_by_teacher`.
    """
    questions = begin(
        data,
        out,
        lambda digest: {"stage": "annotate-ground-truth", "data": digest, "seed": seed, "error_rate": error_rate},
        limit,
    )
    annotator = GroundTruth(seed, error_rate)
    steps: dict[str, Step] = {question.id: annotator.annotate(question) for question in questions}
    corrupted = sum(
        annotator.corrupts(question)
        for question in questions
        if isinstance(question, Sample) and isinstance(steps[question.id], Accepted)
    )
    annotation = write_output(data, out, "ground-truth", questions, steps, corrupted=corrupted)
    return Report(annotation, summary(annotation, out))
