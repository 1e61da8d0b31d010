"""Write the result: a data directory for `trainer sft`, and a report about the annotation.

OUT/samples.jsonl       accepted samples, in the order of the source
OUT/<pictures>          hard links to the source's files; copies where links are not possible
OUT/rejected.jsonl      rejected samples, with the reason and the last reply
OUT/annotation.json     counts, agreement with the truth, tokens, cost
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from screening.runtime.atomic_write import replacing, write_atomically
from trainer.data.annotate.method import Accepted, Rejected, Step
from trainer.data_directory import SAMPLES_NAME, DataError, json_lines, picture_path
from trainer.judged import Judged
from trainer.metrics import random_baseline
from trainer.picture_verdicts import picture_verdicts
from trainer.records import AnySample, Sample
from trainer.shares import Share, share

REPORT_NAME = "annotation.json"
REJECTED_NAME = "rejected.jsonl"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Agreement(_Table):
    """Comparison of the accepted samples with the truth, if it is known."""

    correct: Share
    """Correct by the paper's rule (section 5.1): every option of the answer is in the label. The paper has 38.25 %."""
    exact: Share
    """Samples whose answer is exactly the true label."""
    verdicts: Share
    """Pictures whose verdict names exactly the true dimensions."""
    random_baseline: float | None
    """Score of blind guessing in percent; see `trainer.metrics.random_baseline`."""


class Teaching(_Table):
    """Statistics of the endpoint over all runs of this annotation."""

    replies: int
    models: dict[str, int]
    """Number of replies per model name, as the endpoint reports it."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """Cost in the currency of the prices; None without prices. Requests that timed out may have cost extra."""


class Annotation(_Table):
    """The content of `annotation.json`."""

    method: str
    complete: bool
    """Whether every question was settled."""
    samples: int
    accepted: Share
    """Accepted samples among the settled ones, with a Wilson interval."""
    rejected: int
    unfinished: int
    rejected_reasons: dict[str, int]
    agreement: Agreement | None
    corrupted: Share | None = None
    """Accepted samples that were made wrong on purpose (`ground-truth --error-rate`)."""
    teacher: Teaching | None = None


def write_output(
    source: Path,
    out: Path,
    method: str,
    questions: Sequence[AnySample],
    steps: Mapping[str, Step],
    *,
    teacher: Teaching | None = None,
    corrupted: int | None = None,
) -> Annotation:
    """Write the data directory. Files of an earlier run of the same annotation are replaced.

    Args:
        source: data directory of the questions.
        steps: question → its last step. A question that is neither accepted nor rejected counts as unfinished.

    Raises:
        DataError: a picture cannot be linked or copied.
    """
    accepted = {name: step for name, step in steps.items() if isinstance(step, Accepted)}
    rejected = {name: step for name, step in steps.items() if isinstance(step, Rejected)}
    for question in questions:
        if question.id in accepted:
            for file in question.files:
                link_picture(picture_path(source, file), out / file)
    lines = [f"{accepted[question.id].sample.model_dump_json()}\n" for question in questions if question.id in accepted]
    settled = len(accepted) + len(rejected)
    report = Annotation(
        method=method,
        complete=settled == len(questions),
        samples=len(questions),
        accepted=share(len(accepted), settled),
        rejected=len(rejected),
        unfinished=len(questions) - settled,
        rejected_reasons=dict(Counter(step.fault.reason for step in rejected.values()).most_common()),
        agreement=_agreement(questions, accepted),
        corrupted=None if corrupted is None else share(corrupted, len(accepted)),
        teacher=teacher,
    )
    write_atomically(out / REJECTED_NAME, json_lines(_record(name, step) for name, step in rejected.items()))
    write_atomically(out / SAMPLES_NAME, "".join(lines))
    write_atomically(out / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
    return report


def link_picture(source: Path, target: Path) -> None:
    """Create a hard link, or a copy where links are not possible. An existing target is kept.

    Raises:
        DataError: neither is possible.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            # Resolved first, because a link to a symbolic link would point elsewhere from here.
            os.link(source.resolve(), target)
            return
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise DataError(f"{source} can be neither linked nor copied to {target} ({error.strerror})") from error


def _agreement(questions: Sequence[AnySample], accepted: Mapping[str, Accepted]) -> Agreement | None:
    judged = [
        Judged(question, accepted[question.id].answer)
        for question in questions
        if isinstance(question, Sample) and question.id in accepted
    ]
    if not judged:
        return None
    return Agreement(
        correct=share(sum(one.correct for one in judged), len(judged)),
        exact=share(sum(one.options == one.sample.options for one in judged), len(judged)),
        verdicts=picture_verdicts(judged).exact,
        random_baseline=random_baseline([one.sample.options for one in judged]),
    )


def _record(name: str, step: Rejected) -> dict[str, Any]:
    return {
        "sample": name,
        "task": step.task,
        "reason": step.fault.reason,
        "detail": step.fault.detail,
        "attempts": step.attempts,
        "text": step.text,
    }
