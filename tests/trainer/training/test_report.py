"""The report of a training: curves, also of a running one, and example decisions."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.data_directory import read_samples
from trainer.runs.run_directory import claim
from trainer.training.report import page
from trainer.training.report.curves import panels_of
from trainer.training.report.run import RunError, read_run
from trainer.training.tracking.examples import Completion, keep_example, read_examples

pytestmark = pytest.mark.slow

TAG = "<script>alert(1)</script>"


def claimed(directory: Path, stage: str, **origin: Any) -> Path:
    claim(directory, {"stage": stage, **origin})
    return directory


def stage_2_record(step: int) -> dict[str, Any]:
    record = {"loss": 0.1, "reward": 1.0 + step / 100, "rewards/format_reward/mean": 0.9, "kl": 0.01, "entropy": 1.5}
    record |= {"rewards/dpa_reward/mean": 0.4, "rewards/dpa_reward/std": 0.2, "frac_reward_zero_std": 0.25}
    record |= {"completions/mean_length": 80.0, "completions/min_length": 60.0, "completions/max_length": 99.0}
    return record | {"completions/clipped_ratio": 0.0, "clip_ratio/region_mean": 0.0, "step": step, "time": 1e9 + step}


@pytest.fixture
def stage_2(tmp_path: Path, small_data: Path) -> Path:
    """A run of stage 2 that was killed or still runs, with HTML tags in settings, id and answer."""
    run = claimed(tmp_path / "stage2", "hcm-grpo", settings={"group_size": 2, "reward": "dpa"}, data=f"sha256:{TAG}")
    (run / "log.json").write_text(json.dumps([stage_2_record(step) for step in (5, 10, 15)]))
    sample = read_samples(small_data)[0].model_copy(update={"id": f"id {TAG}"})
    wrong = Completion(text=f"<think>{TAG}</think><answer>", tokens=7, rewards={"format_reward": 0, "dpa_reward": 0})
    text = f"<think>I looked.</think><answer>{sample.label}</answer>"
    right = Completion(text=text, tokens=9, rewards={"format_reward": 1, "dpa_reward": 0.5})
    keep_example(run, small_data, sample, 5, [wrong, right])
    return run


def labels(run: Path) -> dict[str, list[str]]:
    return {panel.title: [curve.label for curve in panel.curves] for panel in panels_of(read_run(run))}


def test_stage_2_shows_every_part_of_the_reward_and_the_groups_with_equal_rewards(stage_2: Path) -> None:
    found = labels(stage_2)
    assert found["reward"] == ["total", "format", "dpa"]
    assert found["completion length, tokens"] == ["mean", "min", "max"]
    assert found["shares cut"] == ["completions cut at the limit", "tokens with a clipped ratio"]
    assert {"groups without a signal (all rewards equal)", "KL to the reference", "entropy", "loss"} < set(found)
    assert "learning rate" not in found, "a metric that was not logged has no panel"
    (total, *_) = next(panel for panel in panels_of(read_run(stage_2)) if panel.title == "reward").curves
    assert (total.steps, total.values) == ((5, 10, 15), pytest.approx((1.05, 1.1, 1.15)))


def test_the_page_holds_everything_and_runs_nothing(
    stage_2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(stage_2), "--out", str(tmp_path / "report")]) == 0
    assert "hcm-grpo, not finished, at step 15" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["curves.png", "report.html"]
    html = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in html and unescape(html).count(TAG) == 3, "in the settings, the id and the completion"
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    pictures = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', html)
    assert [kind for kind, _ in pictures] == ["png"] + ["jpeg"] * 5
    for kind, data in pictures:
        assert Image.open(BytesIO(b64decode(data))).format == kind.upper()
    assert b64decode(pictures[0][1]) == (tmp_path / "report" / "curves.png").read_bytes()


def test_an_example_shows_the_answers_their_rewards_and_their_options(stage_2: Path) -> None:
    main(["report", str(stage_2)])
    html = (stage_2 / "report" / "report.html").read_text()
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())
    label = read_examples(stage_2)[0].label
    assert "unreadable reward 0.00 (format 0.00, dpa 0.00), 7 tokens" in text
    assert f"{label} reward 1.50 (format 1.00, dpa 0.50), 9 tokens <think>I looked.</think><answer>{label}<" in text
    assert "named by 1 of 2" in text
    assert "settings.reward dpa" in text


def test_many_examples_are_thinned_evenly(stage_2: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = read_samples(small_data)[0]
    for step in (10, 15, 20, 25):
        keep_example(stage_2, small_data, sample, step, [])
    monkeypatch.setattr(page, "SHOWN", 3)
    main(["report", str(stage_2)])
    html = (stage_2 / "report" / "report.html").read_text()
    assert re.findall(r"<h3>step (\d+)", html) == ["5", "15", "25"]


def test_pretraining_has_its_stages_one_after_the_other_and_what_was_measured(tmp_path: Path) -> None:
    run = claimed(tmp_path / "pretrain", "pretrain", recipe={"name": "tiny"})
    lines: list[dict[str, Any]] = [
        {"stage": "see", "step": 10, "loss": 3.0, "gradient_norm": 1.0, "seconds": 9.0},
        {"stage": "see", "step": 20, "measured": {"seen": {"shadow": [0.5, 0.9], "kind": 0.8}}},
        {"stage": "read", "step": 10, "loss": 2.0, "gradient_norm": 1.0, "seconds": 9.0},
        {"stage": "read", "step": 10, "measured": {"judged": {"shadow": [0.7, 1.0]}, "score": {"all": 0.5}}},
        {"stage": "speak", "step": 10, "measured": {"verdicts": {"normal": 0.9, "shadow": 0.4, "all": 0.6}}},
    ]
    torn = '{"stage": "speak", "step": 2'
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    training = read_run(run)
    assert training.offsets == {"see": 0, "read": 20, "speak": 30}
    assert training.progress == "not finished, at step 10 of speak"
    curves = {(panel.title, curve.label): curve for panel in panels_of(training) for curve in panel.curves}
    assert curves["loss", "loss"].steps == (10, 30)
    assert curves["defects found in single pictures", "shadow"].values == (0.5,)
    assert curves["normal pictures recognised among five", "shadow"].values == (1.0,)
    score = curves["score of the verdicts", "all"]
    assert (score.steps, score.values) == ((30, 40), (0.5, 0.6)), "first of the heads, then of the words"
    assert {label for title, label in curves if title == "first word of a verdict correct"} == {"normal", "shadow"}
    assert main(["report", str(run)]) == 0


def test_a_finished_sft_run_is_marked_as_finished(tmp_path: Path, small_checkpoint: Path) -> None:
    run = claimed(tmp_path / "sft", "sft-weak", settings={"epochs": 5})
    (run / "log.json").write_text(json.dumps([{"loss": 1.0, "mean_token_accuracy": float("nan"), "step": 10}]))
    (run / "checkpoint").symlink_to(small_checkpoint)
    assert read_run(run).progress == "finished, 10 steps"
    assert labels(run) == {"loss": ["loss"]}, "values that are not numbers are not drawn"
    assert main(["report", str(run)]) == 0


def test_trainings_on_benchmarks_are_trainings(tmp_path: Path) -> None:
    for stage, title in (("muirbench-hcm-grpo", "reward"), ("muirbench-sft", "tokens predicted correctly")):
        run = claimed(tmp_path / stage, stage)
        (run / "log.json").write_text(json.dumps([{"reward": 1.0, "mean_token_accuracy": 0.5, "step": 5}]))
        assert list(labels(run)) == [title]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "run.json cannot be read"),
        ({"run.json": "{}"}, "not the record of a run"),
        ({"run.json": '{"stage": "compare"}'}, "'compare', which is not a training"),
        ({"run.json": '{"stage": "sft-weak"}'}, "has not logged a step yet"),
        ({"run.json": '{"stage": "sft-weak"}', "log.json": '[{"loss": 1}]'}, "not the log of a training"),
        ({"run.json": '{"stage": "pretrain"}', "log.jsonl": "{}\n"}, "log.jsonl, line 1 is damaged"),
    ],
)
def test_a_directory_without_a_training_ends_with_status_2(
    content: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    assert main(["report", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        read_run(tmp_path / "missing")
