"""`hard-cases.md`: shows where the stage-1 model fails, by dimension and severity, and by label."""

from __future__ import annotations

from collections.abc import Sequence

from screening.task import NONE, Dimension
from trainer.metrics import shows
from trainer.records import Sample
from trainer.runs.markdown import table
from trainer.training.hard_cases.cases import Cases

SUMMARY_NAME = "hard-cases.md"

_INTRO = """\
The tables count the samples that the model answers wrong, as `hard of all (percent)`. A sample counts in the row of
every dimension that at least one of its pictures shows, and in the column of the severity of that defect. So a sample
can count several times."""


def summary(title: str, samples: Sequence[Sample], cases: Cases) -> str:
    """The page as Markdown whose tables also line up as plain text.

    Args:
        title: title of the checkpoint.
    """
    hard = frozenset(cases.hard)
    dimensions = []
    for dimension in Dimension:
        by_severity = [[one for one in samples if _shows_at(one, dimension, severity)] for severity in (1, 2, 3)]
        having = [one for one in samples if shows(one, dimension)]
        dimensions.append([dimension.title, *(_count(part, hard) for part in (*by_severity, having))])
    labels = sorted({one.label for one in samples}, key=lambda label: (label == NONE, len(label), label))
    by_label = [[label, _count([one for one in samples if one.label == label], hard)] for label in labels]
    parts = [
        f"# Hard cases of {title}: {_count(samples, hard)}",
        _INTRO,
        table(["dimension", "subtle", "clear", "gross", "any"], dimensions),
        table(["label", "hard"], by_label),
    ]
    return "\n\n".join(parts) + "\n"


def _count(samples: Sequence[Sample], hard: frozenset[str]) -> str:
    wrong = sum(sample.id in hard for sample in samples)
    return f"{wrong} of {len(samples)} ({100 * wrong / len(samples):.0f} %)" if samples else "-"


def _shows_at(sample: Sample, dimension: Dimension, severity: int) -> bool:
    return any(picture.severity_of(dimension) == severity for picture in sample.generated)
