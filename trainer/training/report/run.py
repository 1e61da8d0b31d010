"""Reads a training's run directory: its record (`run.json`) and its log so far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from screening.checkpoint.manifest import read_manifest
from screening.errors import CheckpointError, UserError
from trainer.runs.json_log import LogError, read_log
from trainer.runs.run_directory import ORIGIN_NAME
from trainer.training.validation.rule import Scored, must_stop, scores_in

Kind = Literal["pretrain", "sft", "hcm-grpo"]


class RunError(UserError):
    """A directory does not belong to a training, or its log is damaged or still empty; the message says which."""


@dataclass(frozen=True)
class Point:
    """The metrics that were logged at one step."""

    stage: str
    """Stage of the step. Pretraining has several, each of which counts steps from 1; other trainings have one."""
    step: int
    values: dict[str, float]
    """Values by metric; nested names are joined, as in `judged/shadow`."""


@dataclass(frozen=True)
class Training:
    """A training, finished or not."""

    directory: Path
    kind: Kind
    origin: dict[str, Any]
    """Content of `run.json`: settings and inputs."""
    points: tuple[Point, ...]
    checkpoint: str | None
    """Digest of the checkpoint; None until the training has finished."""

    @property
    def stage(self) -> str:
        return str(self.origin["stage"])

    @property
    def offsets(self) -> dict[str, int]:
        """Stage → number of steps before it, in the order of training."""
        lengths: dict[str, int] = {}
        for point in self.points:
            lengths[point.stage] = max(point.step, lengths.get(point.stage, 0))
        return {stage: sum(list(lengths.values())[:place]) for place, stage in enumerate(lengths)}

    @property
    def scores(self) -> list[Scored]:
        """The validation scores, in the order of steps; empty without a validation."""
        return scores_in({"step": point.step, **point.values} for point in self.points)

    @property
    def stopped_by_scores(self) -> bool:
        """Whether the validation scores stopped the training."""
        rule = self.origin.get("settings", {}).get("validation")
        return bool(rule) and must_stop(self.scores, rule["patience"], rule["min_gain"])

    @property
    def progress(self) -> str:
        """Progress in words, for example `finished, 500 steps`."""
        last = self.points[-1]
        if self.checkpoint:
            why = ", stopped by its validation scores" if self.stopped_by_scores else ""
            return f"finished, {self.offsets[last.stage] + last.step} steps{why}"
        stage = f" of {last.stage}" if len(self.offsets) > 1 or last.stage != self.stage else ""
        return f"not finished, at step {last.step}{stage}"


def read_run(directory: Path) -> Training:
    """Read the run directory of a training, which may still be running.

    Raises:
        RunError: see the class.
    """
    try:
        origin = json.loads((directory / ORIGIN_NAME).read_text(encoding="utf-8"))
        stage = str(origin["stage"])
    except OSError as error:
        raise RunError(
            f"{directory / ORIGIN_NAME} cannot be read ({error.strerror}). Give the --out directory of "
            "`trainer pretrain`, `sft` or `hcm-grpo`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{directory / ORIGIN_NAME} is not the record of a run") from error
    kind = _kind(stage)
    if kind is None:
        raise RunError(f"{directory} holds a run of {stage!r}, which is not a training and has no curves")
    if kind == "pretrain":
        points = tuple(_pretraining_points(directory / "log.jsonl"))
    else:
        points = tuple(_finetuning_points(directory / "log.json", stage))
    if not points:
        raise RunError(f"{directory} has not logged a step yet. Try again later")
    return Training(directory, kind, origin, points, _checkpoint(directory / "checkpoint"))


def _kind(stage: str) -> Kind | None:
    """Kind of a training by its stage, for example `pretrain`, `sft-weak`, `muirbench-sft` or `muirbench-hcm-grpo`."""
    if stage == "pretrain":
        return "pretrain"
    if stage.endswith("hcm-grpo"):
        return "hcm-grpo"
    return "sft" if "sft" in stage.split("-") else None


class Line(BaseModel):
    """A line of pretraining's log: a step's loss and other metrics, or measurements after it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    stage: str
    step: int
    measured: dict[str, dict[str, Any]] = {}


def _pretraining_points(path: Path) -> Iterator[Point]:
    try:
        lines = read_log(path, Line) if path.exists() else []
    except LogError as error:  # the rest of the message is advice for the training's process
        raise RunError(str(error).partition(";")[0]) from error
    for line in lines:
        values = _numbers(line.model_extra or {})
        for part, found in line.measured.items():
            for name, value in found.items():
                # A dimension has two values: share of defects found, and share of normal pictures recognised.
                pair = {"defects": value[0], "sound": value[1]} if isinstance(value, list) else {"": value}
                values |= {f"{part}/{name}/{which}".rstrip("/"): share for which, share in pair.items()}
        yield Point(line.stage, line.step, values)


def _finetuning_points(path: Path, stage: str) -> Iterator[Point]:
    try:
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for record in records:
            yield Point(stage, int(record.pop("step")), _numbers(record))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not the log of a training") from error


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in record.items() if isinstance(value, int | float)}


def _checkpoint(directory: Path) -> str | None:
    try:
        return read_manifest(directory).digest
    except CheckpointError:
        return None
