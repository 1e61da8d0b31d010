"""A shop that retrains: labelled data, a registry with a production version, and scripted GPU stages.

The scripted stages write what the real ones leave (checkpoints, evaluations), decided by their inputs alone. So two
runs on the same data end with the same digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.registry import PRODUCTION, Registry
from tests.trainer import forked
from tests.trainer.published import make_checkpoint, make_evaluation
from trainer.release.promote.moves import History, move, read_history
from trainer.release.publish.register import register
from trainer.release.retrain.command import retrain
from trainer.release.retrain.errors import RetrainError
from trainer.release.retrain.state import State, read_state

SAMPLES = 60
"""Number of labelled samples, each of another product. A run needs at least 50 new labels."""
ALL_NEW = f"{SAMPLES} new labels of {SAMPLES} products"
"""The reason of the first run."""
_MARGINS = ("overall", "dimension", "unreadable", "none_precision", "none_recall", "position")
LIMITS = {"margins": dict.fromkeys(_MARGINS, 60) | {"calibration": 1}, "floors": {"calibration": 1}}
"""Wide margins, so that a small test set decides."""


@dataclass
class Scripted:
    """GPU stages without a GPU."""

    wrong_before: Sequence[int] = range(0, 400, 3)
    """Test samples that production answers wrong."""
    wrong_after: Sequence[int] = ()
    """Test samples that the candidate answers wrong."""
    asked: list[str] = field(default_factory=list)
    """Stages that were run."""

    def __call__(
        self, stage: str, arguments: Mapping[str, Any], _orders: Path, _launch: Sequence[str], _environment: Any
    ) -> dict[str, Any]:
        self.asked.append(stage)
        done: dict[str, Any] = getattr(self, stage.replace("-", "_"))(**arguments)
        return done

    def sft(self, *, start: str, data: str, out: str, **_: Any) -> dict[str, Any]:
        return trained(Path(out), "sft", read_manifest(Path(start)).digest, samples_in(data))

    def hard_cases(self, *, data: str, out: str, **_: Any) -> dict[str, Any]:
        return {"directory": out, "hard": sorted(samples_in(data))[::2], "questions": len(samples_in(data))}

    def hcm_grpo(self, *, start: str, data: str, out: str, **_: Any) -> dict[str, Any]:
        return trained(Path(out), "hcm-grpo", read_manifest(Path(start)).digest, samples_in(data))

    def calibrate(self, *, checkpoint: str, out: str, **_: Any) -> dict[str, Any]:
        return trained(Path(out), "calibrated", read_manifest(Path(checkpoint)).digest, ()) | {"note": ""}

    def evaluate(
        self, *, candidate: str, production: str | None, data: str, out: str, shared: str, **_: Any
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"candidate": f"{out}/candidate", "production": None}
        evaluated(Path(found["candidate"]), data, candidate, self.wrong_after)
        if production:
            found["production"] = f"{shared}/production"
            evaluated(Path(found["production"]), data, production, self.wrong_before)
        return found

    def publish(self, *, checkpoint: str, store: str) -> dict[str, Any]:
        name = read_manifest(Path(checkpoint)).digest.removeprefix("sha256:")[:12]
        target = Path(store) / name
        if not target.exists():
            shutil.copytree(checkpoint, Path(store) / "new", dirs_exist_ok=True)
            (Path(store) / "new").rename(target)
        return {"directory": str(target)}


def samples_in(data: str) -> list[str]:
    return [json.loads(line)["id"] for line in (Path(data) / "samples.jsonl").read_text().splitlines()]


def trained(out: Path, stage: str, *inputs: Any) -> dict[str, Any]:
    weights = hashlib.sha256(repr((stage, inputs)).encode()).hexdigest()
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    manifest = make_checkpoint(out / "checkpoint", weights)
    return {"checkpoint": str(out / "checkpoint"), "digest": manifest.digest}


def evaluated(out: Path, data: str, checkpoint: str, wrong: Sequence[int]) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    make_evaluation(out, Path(data), read_manifest(Path(checkpoint)), wrong=wrong)


class Shop:
    """A folder with everything that a retraining needs."""

    def __init__(self, folder: Path, data: Path, registry: Registry) -> None:
        self.folder, self.registry, self.scripted = folder, registry, Scripted()
        self.config: dict[str, Any] = {
            "work": str(folder / "work"),
            "data": {"directories": [str(data)], "shares": {"sft": 2, "questions": 1, "validation": 1, "test": 3}},
            "training": {"recipe": str(folder / "recipe.yaml")},
            "registry": {"store": str(folder / "store"), "tracking_uri": registry.uri},
            "when": {"days_after_run": 0, "days_after_rollback": 0},
            "measuring": {"modes": ["cot"], "limits": str(folder / "limits.yaml")},
            "metrics_file": str(folder / "metrics" / "retrain.prom"),
        }
        (folder / "store").mkdir()
        # The steps are small enough for the few samples of these tests.
        (folder / "recipe.yaml").write_text(
            "extends: tiny-rl\nname: few\nsft_answer: {batch_size: 2}\nhcm_grpo: {batch_size: 4}\n"
        )
        (folder / "limits.yaml").write_text(yaml.safe_dump(LIMITS))

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def state(self) -> State:
        return read_state(self.work)

    @property
    def history(self) -> History:
        return read_history(self.registry)

    @property
    def production(self) -> str | None:
        version = self.registry.resolve(PRODUCTION)
        return version.digest if version else None

    @property
    def metrics(self) -> str:
        return Path(self.config["metrics_file"]).read_text()

    def put_into_production(self, name: str) -> None:
        directory = self.folder / "store" / name
        manifest = make_checkpoint(directory, name)
        version = register(self.registry, directory, manifest)
        move(self.registry, self.registry.named(PRODUCTION), version, "promote", by="ann", reason=None)

    def file(self) -> Path:
        path = self.folder / "retrain.yaml"
        path.write_text(yaml.safe_dump(self.config))
        return path

    def call(self, *options: str) -> int:
        """Give the command, with scripted GPU stages. Returns the exit status."""
        return called(self.file(), self.scripted, *options)

    def killed(self, moment: str) -> int:
        """Give the command in a process that kills itself at a moment. Returns its exit code."""
        return forked.run(_until_killed, self.file(), self.scripted, moment)


def called(config: Path, scripted: Scripted, *options: str) -> int:
    given = {name: f"--{name.replace('_', '-')}" in options for name in ("decide_only", "dry_run", "explain")}
    try:
        return retrain(argparse.Namespace(config=config, join=None, **given), scripted)
    except RetrainError as error:
        print(f"error: {error}")
        return error.exit_status


def _until_killed(config: Path, scripted: Scripted, moment: str) -> None:
    """The events of the process. A moment is `before STAGE`, `after STAGE` (not recorded yet) or `noted`."""
    import dataclasses

    from trainer.release.retrain import machine

    when, _, name = moment.partition(" ")
    patch = pytest.MonkeyPatch()

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(stage: Any) -> Any:
        def after(*given: Any) -> None:
            stage.work(*given)
            die()

        return stage if stage.name != name else dataclasses.replace(stage, work=die if when == "before" else after)

    if moment == "noted":
        patch.setattr(Registry, "point", lambda *given: die() if given[1] == PRODUCTION else None)
    patch.setattr(machine, "STAGES", tuple(map(dying, machine.STAGES)))
    raise SystemExit(called(config, scripted))
