"""The stopwatch with invented times, and a measurement on a model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from trainer.__main__ import main
from trainer.research.bench_train import DEFAULT, NAMES, OURS, PARTS, Stopwatch


def test_the_time_of_a_nested_part_counts_for_the_inner_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("trainer.research.bench_train.time.perf_counter", lambda: now)
    watch = Stopwatch()
    with watch.part("outer"):
        now = 1.0
        with watch.part("inner"):
            now = 4.0
            with watch.part("innermost"):
                now = 9.0
        now = 11.0
        with watch.part("inner"):
            now = 12.0
    assert watch.seconds == {"outer": 3, "inner": 4, "innermost": 5}


def test_a_timed_method_counts_by_its_arguments_and_returns_what_it_returned() -> None:
    class Adder:
        def add(self, one: int, other: int) -> int:
            return one + other

    watch, adder = Stopwatch(), Adder()
    watch.time(adder, "add", lambda one, _other: "small" if one < 10 else "large")
    assert (adder.add(1, 2), adder.add(20, 1)) == (3, 21)
    assert set(watch.seconds) == {"small", "large"}


@pytest.mark.slow
def test_all_three_are_measured(
    small_checkpoint: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {"learning_rate": 0.001, "captions": False}
    rl = {"group_size": 2, "batch_size": 4, "learning_rate": 1e-5, "max_completion_tokens": 6}
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "prompt": "compact",
                "max_tokens_cot": 256,
                "sft_weak": stage,
                "sft_answer": stage,
                "hcm_grpo": {**rl, "gradient_checkpointing": False},
            }
        )
    )
    out = tmp_path / "figures.json"
    command = ["bench-train", "--recipe", str(recipe), "--checkpoint", str(small_checkpoint), "--steps", "1"]
    assert main([*command, "--data", str(small_data), "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    printed = capsys.readouterr().out
    for name in NAMES:
        found = figures["trainers"][name]
        assert found["completions_per_second"] == pytest.approx(4 / found["step_seconds"])
        assert 0 < found["tokens_per_completion"] <= 6
        assert set(found["parts"]) == set(PARTS)
        assert all(found["parts"][part] > 0 for part in PARTS if part != "rewards"), (
            "a part that is never measured is 0"
        )
        assert name in printed
    ratio = figures["trainers"][OURS]["completions_per_second"] / figures["trainers"][DEFAULT]["completions_per_second"]
    assert f"{ratio:.2f}x" in printed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora": {"rank": 2, "alpha": 4}}, "hcm_grpo.lora"),
        ({"attention": "flash_attention_2"}, "hcm_grpo.attention"),
        ({"vllm": "colocate"}, "hcm_grpo.vllm"),
    ],
)
def test_a_recipe_with_which_the_trainers_would_train_differently_is_refused(
    changes: dict[str, object], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "other.yaml"
    recipe.write_text(yaml.safe_dump({"extends": "tiny", "hcm_grpo": changes}))
    command = ["bench-train", "--recipe", str(recipe), "--checkpoint", str(tmp_path), "--data", str(tmp_path)]
    assert main(command) == 2
    assert f"cannot compare trainers with {named}. Remove these settings" in capsys.readouterr().err


def test_less_than_one_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench-train", "--steps", "0"]) == 2
    assert "--steps" in capsys.readouterr().err
