"""Reviewed tasks → samples: pure functions, so the same reviews always give the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from screening.answer import check_reasoning, parse_findings
from screening.runtime.validation import first_fault
from screening.task import NONE
from trainer.data.collect.errors import CollectError
from trainer.data.collect.export import Item, PictureFile, Verdict
from trainer.records import Sample

PICTURES_NAME = "pictures"
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/avif": ".avif"}
KIND = "reviewed"
"""`kind` of a defect that a person named: people name dimensions and severities, not kinds."""
_NOT_DATA = {
    "gold": "a gold question, whose answer was known before",
    "repeat": "a repeated question, which measures how consistent people are",
}
OLDER = "an older verdict on the same question"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A task that gives no sample."""

    task: str
    reason: str


def choose(items: Iterable[Item]) -> tuple[dict[str, Item], list[LeftOut]]:
    """Choose the tasks that become samples, and name the samples.

    A sample has the id of the decision, or that of the imported sample. If several tasks judge the same question, the
    latest verdict counts. If two imports use one id for different pictures, the later task gets `ID@TASK`.

    Returns:
        Sample id → task, in the order of the ids, and the tasks that are left out, in the order of their ids.
    """
    latest: dict[tuple[str, tuple[str, ...]], Item] = {}
    left_out = []
    for item in sorted(items, key=lambda item: item.task):
        if item.reason in _NOT_DATA:
            left_out.append(LeftOut(item.task, _NOT_DATA[item.reason]))
            continue
        other = latest.setdefault((item.name, item.digests), item)
        if other is not item:
            older, newer = sorted((other, item), key=lambda one: (one.at, one.task))
            latest[item.name, item.digests] = newer
            left_out.append(LeftOut(older.task, OLDER))
    chosen: dict[str, Item] = {}
    for (name, _), item in latest.items():  # in the order of the first task of each question, so names stay
        chosen[name if name not in chosen else f"{name}@{item.task}"] = item
    return {name: chosen[name] for name in sorted(chosen)}, sorted(left_out, key=lambda one: one.task)


def record_of(name: str, item: Item) -> dict[str, Any]:
    """The line of `samples.jsonl` for a task.

    Raises:
        CollectError: the task contradicts itself, for example its letters and its verdicts.
    """
    files = {one.position: file_of(one) for one in item.files}
    verdicts = sorted(item.pictures, key=lambda one: one.option)
    record: dict[str, Any] = {"id": name}
    if item.product:
        record["product"] = item.product
    record["original"] = {"file": files[0]}
    record["generated"] = [_generated(one, files[place]) for place, one in enumerate(verdicts, 1)]
    record["label"] = item.letters
    if reasoning := _reasoning(item, verdicts):
        record["reasoning"] = reasoning
    if item.inclusion_probability is not None:
        record["weight"] = 1 / item.inclusion_probability
    record["provenance"] = _provenance(item)
    try:
        Sample.model_validate(record)
    except ValidationError as error:
        problem = first_fault(error)[1]
        raise CollectError(f"the service's export of task {item.task} contradicts itself: {problem}") from error
    return record


def file_of(picture: PictureFile) -> str:
    """Path of a picture in a snapshot. Equal pictures are one file.

    Raises:
        CollectError: the format is unknown.
    """
    suffix = SUFFIXES.get(picture.media_type)
    if suffix is None:
        known = ", ".join(SUFFIXES)
        raise CollectError(f"picture {picture.sha256} has the media type {picture.media_type!r}; known are {known}")
    return str(PurePosixPath(PICTURES_NAME) / f"{picture.sha256}{suffix}")


def _generated(verdict: Verdict, file: str) -> dict[str, Any]:
    """One generated picture. Without dimensions, only the comment says what is wrong."""
    found: dict[str, Any] = {"file": file, "option": verdict.option, "usable": verdict.usable}
    named = sorted(verdict.dimensions.items())
    if verdict.usable or named:
        found["dimensions"] = [dimension for dimension, _ in named]
    if named:
        found["severity"] = max(severity for _, severity in named)
        found["defects"] = [
            {"dimension": dimension, "kind": KIND, "severity": severity, "comment": ""} for dimension, severity in named
        ]
    if verdict.comment:
        found["comment"] = verdict.comment
    return found


def _reasoning(item: Item, verdicts: Sequence[Verdict]) -> str:
    """The model's reasoning if it contradicts no verdict of people; otherwise nothing."""
    if item.model is None or not item.model.reasoning or item.model.acceptable is None:
        return ""
    if set(item.model.acceptable) - {NONE} != {one.option for one in verdicts if one.usable}:
        return ""
    try:
        reasoning = check_reasoning(item.model.reasoning)
    except ValueError:
        return ""
    findings = {finding.option: finding.dimensions for finding in parse_findings(reasoning)}
    return "" if any(_contradicted(one, findings) for one in verdicts) else reasoning


def _contradicted(verdict: Verdict, findings: Mapping[str, frozenset[Any] | None]) -> bool:
    """Whether the model calls a picture something else than people do."""
    stated = findings.get(verdict.option)
    if stated is None:  # the reasoning says nothing that we can read
        return False
    if verdict.usable == bool(stated):
        return True
    return bool(verdict.dimensions) and stated != verdict.dimensions.keys()


def _provenance(item: Item) -> dict[str, Any]:
    found = {
        "task": item.task,
        "job": item.job,
        "decision": item.decision,
        "batch": item.batch,
        "reason": item.reason,
        "inclusion_probability": item.inclusion_probability,
        "checkpoint": item.checkpoint,
        "decided": item.decided,
        "reviewers": item.reviewers,
        "reviews": sorted(item.reviews),
        "at": item.at.astimezone(UTC).isoformat(),
    }
    return {name: value for name, value in found.items() if value is not None}
