"""A training that overfits on purpose: its best step is published, and it stops early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.manifest import CARD_NAME, read_manifest, store_manifest, verify
from tests.trainer.training.validation.overfitting import (
    Ended,
    contradicting_data,
    end_at,
    scores,
    sft,
    training_data,
    write_recipe,
)
from trainer.training.report.command import write_report

pytestmark = pytest.mark.slow

PATIENCE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A finished run in `out`, with its data."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("overfitting")
    training_data(folder / "training")
    contradicting_data(folder / "validation")
    recipe = write_recipe(folder / "r.yaml", {"every_steps": 2, "patience": PATIENCE})
    given = ["--validation", folder / "validation"]
    assert sft(recipe, small_checkpoint, folder / "training", folder / "out", *given) == 0
    return folder


def test_the_score_rises_and_falls_and_the_training_stops_by_the_rule(folder: Path) -> None:
    found = scores(folder / "out")
    steps, percents = zip(*found, strict=True)
    best = percents.index(max(percents))
    assert percents[0] == 0 and max(percents) == 100 and percents[-1] == 0, "it learned, and then learned by heart"
    assert steps == tuple(range(2, 2 * len(steps) + 1, 2))
    assert len(steps) == best + 1 + PATIENCE, "it stopped after so many scores without a gain"
    assert steps[-1] < 40, "earlier than the recipe's last step"


def test_the_checkpoint_has_the_weights_of_the_best_step_and_says_so(folder: Path) -> None:
    step = next(step for step, percent in scores(folder / "out") if percent == 100)
    last = scores(folder / "out")[-1][0]
    manifest = verify(folder / "out" / "checkpoint")
    facts = manifest.data["sft-answer-driven"]["validation"]
    assert (facts["step"], facts["score"], facts["samples"]) == (step, 100, 2)
    assert facts["digest"] not in manifest.trained_on and manifest.selected_on == {facts["digest"]}
    published = load_file(folder / "out" / "checkpoint" / "model.safetensors")
    of_best, of_last = (
        load_file(folder / "out" / "trl" / f"checkpoint-{one}" / "model.safetensors") for one in (step, last)
    )
    assert all(torch.equal(tensor, of_best[name].bfloat16()) for name, tensor in published.items())
    assert any(not torch.equal(tensor, of_last[name].bfloat16()) for name, tensor in published.items())


def test_scores_change_nothing_in_the_training(
    folder: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", None)
    end_at(monkeypatch, "transformers.Trainer.training_step", 11)
    with pytest.raises(Ended):
        sft(recipe, small_checkpoint, folder / "training", tmp_path / "out")
    logs = [json.loads((out / "log.json").read_text()) for out in (folder / "out", tmp_path / "out")]
    with_scores, without = (next(one for one in log if one["step"] == 10 and "loss" in one) for log in logs)
    assert {**with_scores, "time": 0} == {**without, "time": 0}


def test_the_report_has_the_curve_and_the_best_step(folder: Path, tmp_path: Path) -> None:
    assert "stopped by its validation scores" in write_report(folder / "out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    step = next(step for step, percent in scores(folder / "out") if percent == 100)
    assert f"The best validation score is 100.0 %, after step {step}" in page
    assert "<td>validation, %</td><td>score</td>" in page


def test_the_same_command_again_keeps_calibration_scores_and_card_and_takes_no_step(
    folder: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_step(*_: object) -> None:
        raise AssertionError("a training that has stopped takes no step")

    out = shutil.copytree(folder / "out", tmp_path / "out")
    calibration = {Mode.COT: Calibration(method="platt", answers=200, data=("sha256:0",))}
    changes = {"calibration": calibration, "scores": {"cot": {"percent": 93.7}}}
    before = read_manifest(out / "checkpoint").model_copy(update=changes)
    store_manifest(before, out / "checkpoint")
    (out / "checkpoint" / CARD_NAME).write_text("a card")
    log = (out / "log.json").read_text()
    monkeypatch.setattr("transformers.Trainer.training_step", no_step)
    given = [folder / "r.yaml", small_checkpoint, folder / "training", out, "--validation", folder / "validation"]
    assert sft(*given) == 0
    assert verify(out / "checkpoint") == before
    assert (out / "checkpoint" / CARD_NAME).read_text() == "a card"

    shutil.rmtree(out / "checkpoint")
    assert sft(*given) == 0
    assert verify(out / "checkpoint").files == before.files, "it is made from the saved state of the best step"
    assert (out / "log.json").read_text() == log
