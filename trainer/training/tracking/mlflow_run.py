"""The MLflow run of a run directory. A resumed training uses the same run, and sends each step once.

MLflow cannot replace a value. If a step is repeated after a kill, MLflow keeps the first value, and OUT/log.json has
the second. The two are equal if training repeats exactly.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import trainer
from screening import __version__
from screening.runtime.atomic_write import write_atomically
from trainer.runs.run_directory import ORIGIN_NAME
from trainer.training.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

RUN_ID_NAME = "mlflow.json"
"""File of the run directory with the id of its MLflow run."""
EXPERIMENT_NAME = "screening"
"""Experiment of all trainings, unless the environment variable MLFLOW_EXPERIMENT_NAME names another."""
ARTIFACTS = (ORIGIN_NAME, "log.json", "hard-cases.json", "examples.jsonl", "examples")
"""Files and folders of a run directory that are copied to MLflow at the end, if they exist."""

Status = Literal["FINISHED", "FAILED", "KILLED"]

Record = Mapping[str, Any]
"""One entry of a training's log: `step`, `time` (seconds since 1970), and metrics."""

_METRICS_PER_REQUEST = 1000
"""MLflow's maximum number of metrics per request."""


class MlflowRun:
    """An open run. Its methods raise MLflow's errors if the store does not answer."""

    def __init__(self, store: Store, out: Path, origin: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # otherwise MLflow reports its use to its makers
        import mlflow.telemetry

        mlflow.telemetry.set_telemetry_client()  # TRL may have imported MLflow and set it up before
        self._out = out
        self._client = mlflow.MlflowClient(tracking_uri=store.uri)
        self._run_id = _known_run(self._client, out) or _new_run(self._client, store, out, origin)
        self._sent = _last_steps(self._client, self._run_id)
        self._client.update_run(self._run_id, status="RUNNING")
        for key, value in flat(origin):  # also for a known run: a kill may have come before this
            self._client.log_param(self._run_id, key, value)
        for key, value in _code_tags().items():
            self._client.set_tag(self._run_id, key, value)

    def send(self, history: Sequence[Record]) -> None:
        """Send the metrics that the run does not have yet."""
        metrics = list(self._missing(history))
        for start in range(0, len(metrics), _METRICS_PER_REQUEST):
            batch = metrics[start : start + _METRICS_PER_REQUEST]
            self._client.log_batch(self._run_id, metrics=batch)
            self._sent |= {metric.key: metric.step for metric in batch}

    def _missing(self, history: Sequence[Record]) -> Iterator[Metric]:
        from mlflow.entities import Metric

        for record in history:
            # The record's time makes a repeated request equal to the first one, and MLflow drops equal values.
            moment = int(1000 * record.get("time", time.time()))
            for key, value in record.items():
                known = key in ("step", "time") or record["step"] <= self._sent.get(key, -1)
                if isinstance(value, int | float) and not known:
                    yield Metric(key, float(value), moment, record["step"])

    def close(self, status: Status, checkpoint: str | None) -> None:
        """Copy the files and record how the training ended."""
        for path in (self._out / name for name in ARTIFACTS):
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), path.name)
            elif path.exists():
                self._client.log_artifact(self._run_id, str(path))
        if checkpoint:
            self._client.set_tag(self._run_id, "checkpoint", checkpoint)
        self._client.set_terminated(self._run_id, status)


def _known_run(client: MlflowClient, out: Path) -> str | None:
    """Id of the run that an earlier process started; None if this store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = str(json.loads((out / RUN_ID_NAME).read_text(encoding="utf-8"))["run_id"])
        client.get_run(run_id)
    except FileNotFoundError:
        return None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id


def _new_run(client: MlflowClient, store: Store, out: Path, origin: Mapping[str, Any]) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT_NAME)
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name, store.artifacts)
    directory = out.resolve()
    run = client.create_run(
        number,
        run_name=f"{directory.parent.name}/{directory.name}",
        tags={"directory": str(directory), "mlflow.source.name": f"trainer {origin['stage']}"},
    )
    run_id = str(run.info.run_id)
    write_atomically(out / RUN_ID_NAME, json.dumps({"run_id": run_id, "experiment": name}) + "\n")
    return run_id


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Metric → last step that the run has."""
    keys = client.get_run(run_id).data.metrics
    return {key: max(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


def _code_tags() -> dict[str, str]:
    """Version of the code, and its commit if it runs from a Git checkout."""
    tags = {"version": __version__}
    here, git = Path(trainer.__file__), shutil.which("git")
    if git is None:
        return tags

    def asked(*question: str) -> subprocess.CompletedProcess[str]:
        command = [git, "--no-optional-locks", "-C", str(here.parent), *question]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours

    # An installed package may lie inside the checkout of another project.
    if asked("ls-files", "--error-unmatch", here.name).returncode == 0:
        found = asked("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").stdout.strip()
        tags["mlflow.source.git.commit"] = found
    return tags


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings to names such as `settings.learning_rate`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
