"""The arguments of every stage: the settings, the run so far, the registry, and how GPU stages are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from screening.checkpoint.registry import Registry
from trainer.data.split.assign import Split
from trainer.release.retrain.collect import Collector
from trainer.release.retrain.config import Settings
from trainer.release.retrain.state import Run

SPLIT_NAME = "split"
RUNS_NAME = "runs"
EVALUATIONS_NAME = "evaluations"

PARTS: Mapping[str, Split] = {
    "sft": Split.TRAINING,
    "test": Split.TESTING,
    "questions": Split.PSEUDO_LABEL,
    "validation": Split.EXPLORATION,
}
"""Part of a retraining → the split of `trainer split` that holds it. All samples here have labels, so the two splits
that the paper uses for samples without labels are free for stage 2 and for validation."""


class Execute(Protocol):
    """Function that runs a GPU stage; `trainer.release.retrain.worker.execute` outside tests."""

    def __call__(
        self,
        stage: str,
        arguments: Mapping[str, Any],
        orders: Path,
        launch: Sequence[str],
        environment: Mapping[str, str],
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Context:
    """One call of the command on one run."""

    settings: Settings
    run: Run
    registry: Registry
    collector: Collector
    execute: Execute
    check_token: Callable[[], None]
    """Raises Stale once a later run has begun."""
    tell: Callable[[str], None]
    """Writes a line for people."""

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.settings.work / RUNS_NAME / self.run.id

    @property
    def divided(self) -> Path:
        """The divided data, which all runs share."""
        return self.settings.work / SPLIT_NAME

    def of(self, stage: str) -> dict[str, Any]:
        """The result of a stage that is done."""
        return self.run.stages[stage].result
