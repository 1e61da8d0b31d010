"""The steps that all annotations share: read the data and claim OUT first, and report to the user at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.annotate.errors import AnnotationError
from trainer.data.annotate.output import Annotation
from trainer.data_directory import data_digest, read_any_samples
from trainer.records import AnySample
from trainer.runs.markdown import with_interval
from trainer.runs.run_directory import claim


@dataclass(frozen=True, slots=True)
class Report:
    """The result that was written, and the lines to print."""

    annotation: Annotation
    lines: tuple[str, ...]


def begin(data: Path, out: Path, origin: Callable[[str], dict[str, object]], limit: int | None) -> list[AnySample]:
    """Read the questions to annotate, and claim OUT for this annotation.

    Args:
        origin: data digest → everything that decides the result.
        limit: number of questions, from the first; None means all.

    Raises:
        AnnotationError, DataError, RunMismatch: see `trainer.data.annotate.by_teacher.annotate_by_teacher`.
    """
    questions = read_any_samples(data)
    if out.resolve() == data.resolve():
        raise AnnotationError(f"{out} is the data directory itself; name another --out")
    digest = data_digest(data, questions, check=False)  # a broken picture should only reject its own sample
    claim(out, origin(digest))
    return questions[:limit]


def summary(annotation: Annotation, out: Path) -> tuple[str, ...]:
    """Lines for the terminal that say what was done."""
    lines = [
        f"{out}: {annotation.accepted.hits} of {annotation.samples} samples accepted, {annotation.rejected} rejected, "
        f"{annotation.unfinished} open"
    ]
    if annotation.rejected_reasons:
        lines.append("rejected: " + ", ".join(f"{name} {n}" for name, n in annotation.rejected_reasons.items()))
    if annotation.agreement:
        agreement = annotation.agreement
        lines.append(
            f"compared with the truth: correct {with_interval(agreement.correct)}, "
            f"whole label {with_interval(agreement.exact)}, verdicts {with_interval(agreement.verdicts)}"
        )
    if annotation.teacher:
        teacher = annotation.teacher
        cost = "" if teacher.cost is None else f", cost {teacher.cost:.4g}"
        lines.append(
            f"{teacher.replies} replies, {teacher.prompt_tokens} prompt and {teacher.completion_tokens} "
            f"completion tokens{cost}"
        )
    return tuple(lines)
