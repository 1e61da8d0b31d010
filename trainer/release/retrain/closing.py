"""What is done after a call and changes nothing about how it ended: report, link to it, old runs, metrics."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from screening.checkpoint.registry import Registry
from screening.errors import RegistryError
from trainer.release.retrain.config import Settings
from trainer.release.retrain.context import EVALUATIONS_NAME, RUNS_NAME
from trainer.release.retrain.ledger import Ledger
from trainer.release.retrain.metrics import write_metrics
from trainer.release.retrain.report import write_report
from trainer.release.retrain.state import Run, State


@contextmanager
def only_warned(what: str) -> Iterator[None]:
    """Print a warning for what goes wrong in the block: a full disk must not make a failure of a promoted model."""
    try:
        yield
    except (OSError, ValueError, KeyError, RegistryError) as error:  # also a gate or a state that was edited by hand
        print(f"warning: {what}: {type(error).__name__}: {error}", file=sys.stderr)


def report(settings: Settings, registry: Registry, run: Run, ledger: Ledger) -> None:
    """Write the page of a run, and name it on the version's page in MLflow."""
    with only_warned("the report cannot be written"):
        page = write_report(run, settings.work / RUNS_NAME / run.id, ledger)
        print(f"Report: {page}")
        with only_warned("the report is not linked in the registry"):
            _link(registry, run, page)


def prune(settings: Settings, state: State) -> None:
    """Remove the directories of old runs and old evaluations of production, but for those that the state refers to."""
    runs = [one for one in (state.run, state.finished) if one]
    evaluations = [one.stages["evaluate"].result.get("production") for one in runs if "evaluate" in one.stages]
    with only_warned("old runs cannot be removed"):
        there = sorted(path for path in (settings.work / RUNS_NAME).iterdir() if path.is_dir())
        _remove(there[: -settings.keep_runs], {one.id for one in runs})
    with only_warned("old evaluations cannot be removed"):
        there = sorted((settings.work / EVALUATIONS_NAME).glob("*/"), key=_last_used)
        _remove(there[: -settings.keep_runs], {Path(one).parent.name for one in evaluations if one})


def _last_used(evaluation: Path) -> float:
    """When a run last wrote into the directory. Every run that uses an evaluation writes its scores again."""
    return max(path.stat().st_mtime for path in (evaluation, *evaluation.iterdir()))


def _remove(old: Sequence[Path], needed: Collection[str]) -> None:
    for path in old:
        if path.name not in needed:
            shutil.rmtree(path)


def metrics(settings: Settings, state: State, ledger: Ledger, status: int) -> None:
    """Write the metrics file, if there is one."""
    with only_warned("metrics_file cannot be written"):
        write_metrics(settings, state, ledger, status)


def _link(registry: Registry, run: Run, page: Path) -> None:
    if not (published := run.stages.get("publish")):
        return
    with registry.client() as client:
        number = str(published.result["version"])
        client.set_model_version_tag(registry.model, number, "retrain.report", str(page.resolve()))
