"""A second machine takes part in the trainings of a run. Here both are this one, training on the CPU over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.checkpoint.directory import verify
from tests.ports import free_port
from trainer.release.retrain.config import read_config
from trainer.release.retrain.errors import BadInput
from trainer.release.retrain.joining import _decided_since, join
from trainer.release.retrain.state import Decision, Run, State, utc_now, write_state
from trainer.release.retrain.worker import execute

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    path = tmp_path / "retrain.yaml"
    settings: dict[str, Any] = {
        "work": str(tmp_path / "work"),
        "data": {"directories": ["labels"]},
        "training": {"recipe": "tiny-rl", "nodes": 2, "rendezvous": "127.0.0.1:29500"},
        "registry": {"store": str(tmp_path / "store")},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_two_machines_train_together(
    config: Path, tmp_path: Path, small_data: Path, small_checkpoint: Path, repository: Path
) -> None:
    work, now = tmp_path / "work", utc_now().isoformat()
    run = Run(id="one", started=now, reason="test")
    write_state(work, State(run=run))
    joining = subprocess.Popen(
        [sys.executable, "-m", "trainer", "retrain", "--config", str(config), "--join", "1"],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    sft = {"learning_rate": 1e-3, "batch_size": 1, "epochs": 1, "captions": False}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": sft, "sft_answer": sft}
        )
    )
    port = str(free_port())
    launch = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    out = work / "runs" / "one" / "sft"
    found = execute(
        "sft",
        {
            "recipe": str(recipe),
            "start": str(small_checkpoint),
            "data": str(small_data),
            "out": str(out),
            "store": str(tmp_path / "store"),
        },
        work / "runs" / "one" / "orders",
        launch,
        {"MLFLOW_TRACKING_URI": "none", "OMP_NUM_THREADS": "1"},
    )
    run.outcome, run.ended = "promoted", now
    write_state(work, State(run=run))
    said, _ = joining.communicate(timeout=900)
    assert joining.returncode == 0 and "taking part in sft" in said
    assert verify(Path(found["checkpoint"])).digest == found["digest"]
    assert json.loads((out / "run.json").read_text())["processes"] == 2


def test_a_machine_that_joins_ends_when_there_is_no_work(config: Path, tmp_path: Path) -> None:
    settings = read_config(config)
    told: list[str] = []
    thread = threading.Thread(target=join, args=(settings, 1, told.append), daemon=True)
    thread.start()
    decision = Decision(at=utc_now().isoformat(), decision="skip", reason="nothing is new")
    write_state(settings.work, State(decision=decision))
    thread.join(300)
    assert not thread.is_alive() and told[-1] == "the first machine has no more trainings"


def test_a_run_that_ended_by_a_wrong_clock_sends_no_machine_away() -> None:
    now = utc_now()
    run = Run(id="one", started=now.isoformat(), reason="test", outcome="promoted", ended=now.isoformat())
    assert _decided_since(State(run=run), now)
    later = (now + timedelta(days=365)).isoformat()
    assert not _decided_since(State(run=run.model_copy(update={"ended": later})), now)


def test_a_machine_that_the_configuration_does_not_have_is_refused(config: Path) -> None:
    with pytest.raises(BadInput, match=r"training\.nodes is 2"):
        join(read_config(config), 2, print)
