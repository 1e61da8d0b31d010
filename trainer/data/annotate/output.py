"""The result: a data directory for `trainer sft`, and the account of how it came about.

OUT/samples.jsonl       accepted samples, in the order of the source
OUT/<pictures>          hard links to the source's files; copies where links are not possible
OUT/rejected.jsonl      the others, with the reason and the last reply
OUT/annotation.json     counts, agreement with the truth, tokens, cost
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from screening.runtime.atomic_write import replacing, write_atomically
from trainer.data.annotate.method import Accepted, Rejected, Step
from trainer.data.annotate.questions import Question
from trainer.data_directory import SAMPLES_NAME, DataError, picture_path
from trainer.metrics import Judged, Share, picture_verdicts, random_baseline, share

REPORT_NAME = "annotation.json"
REJECTED_NAME = "rejected.jsonl"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Agreement(_Table):
    """Accepted samples against the truth, where it is known."""

    correct: Share
    """By the paper's rule (section 5.1): every option of the answer is in the true label. Paper's teacher: 38.25 %."""
    exact: Share
    """The answer is the whole true label."""
    verdicts: Share
    """Pictures whose verdict names exactly the true dimensions."""
    random_baseline: float | None
    """Percent; see `trainer.metrics.random_baseline`."""


class Teaching(_Table):
    """What the endpoint did, over all runs of this annotation."""

    replies: int
    models: dict[str, int]
    """Replies by the model's own name."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """In the currency of the prices; None without prices. Requests that timed out may have cost something too."""


class Annotation(_Table):
    """`annotation.json`."""

    method: str
    complete: bool
    """Whether every question was settled."""
    samples: int
    accepted: Share
    """Of the settled ones, with a Wilson interval."""
    rejected: int
    unfinished: int
    rejected_reasons: dict[str, int]
    agreement: Agreement | None
    corrupted: Share | None = None
    """Of the accepted ones, those made wrong on purpose (`ground-truth --error-rate`)."""
    teacher: Teaching | None = None


def write_output(
    source: Path,
    out: Path,
    method: str,
    questions: Sequence[Question],
    steps: Mapping[str, Step],
    *,
    teacher: Teaching | None = None,
    corrupted: int | None = None,
) -> Annotation:
    """Write the data directory; what is there from an earlier run of the same annotation is replaced.

    Args:
        source: data directory of the questions.
        steps: question → its last step; what is neither accepted nor rejected counts as unfinished.

    Raises:
        DataError: a picture cannot be linked or copied.
    """
    accepted = {name: step for name, step in steps.items() if isinstance(step, Accepted)}
    rejected = {name: step for name, step in steps.items() if isinstance(step, Rejected)}
    for question in questions:
        if question.id in accepted:
            for file in question.files:
                link_picture(picture_path(source, file), out / file)
    lines = [accepted[question.id].sample.model_dump_json() for question in questions if question.id in accepted]
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
    write_atomically(
        out / REJECTED_NAME, _lines(json.dumps(_record(n, s), ensure_ascii=False) for n, s in rejected.items())
    )
    write_atomically(out / SAMPLES_NAME, _lines(lines))
    write_atomically(out / REPORT_NAME, report.model_dump_json(indent=2) + "\n")
    return report


def link_picture(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy on another file system; one that is there stays.

    Raises:
        DataError: neither works.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            # The file itself, not a symbolic link that means something else from here.
            os.link(source.resolve(), target)
            return
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise DataError(f"{source} can be neither linked nor copied to {target} ({error.strerror})") from error


def _agreement(questions: Sequence[Question], accepted: Mapping[str, Accepted]) -> Agreement | None:
    judged = [
        Judged(question.truth, accepted[question.id].answer)
        for question in questions
        if question.truth is not None and question.id in accepted
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


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
