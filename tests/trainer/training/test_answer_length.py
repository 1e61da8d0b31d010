"""A recipe cannot change the maximum length of an answer that a checkpoint carries."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainer.__main__ import main

STAGE = {"epochs": 1, "batch_size": 2, "learning_rate": 0.001, "captions": False}
STAGE_2 = {"group_size": 2, "batch_size": 4, "learning_rate": 0.01, "max_completion_tokens": 8}
STAGE_2 |= {"schedule": "constant", "warmup_ratio": 0.0}


def order(command: str, checkpoint: Path, data: Path) -> list[str]:
    """The options of a training."""
    if command == "ablation":
        directories = [word for name in ("training", "pseudo-label", "test") for word in (f"--{name}", str(data))]
        return ["--base", str(checkpoint), "--tables", "4", *directories]
    given = ["--checkpoint", str(checkpoint), "--data", str(data)]
    return [*given, *(("--stage", "weak") if command == "sft" else ("--hard-cases", str(data)))]


@pytest.mark.parametrize("command", ["sft", "hcm-grpo", "ablation"])
@pytest.mark.parametrize("length", [159, 161])
def test_a_training_with_another_length_than_the_checkpoint_is_refused(
    command: str,
    length: int,
    small_data: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections = {"sft_weak": STAGE, "sft_answer": STAGE, "hcm_grpo": STAGE_2}
    recipe, out = tmp_path / "other.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump({"name": "other", "prompt": "compact", "max_tokens_cot": length, **sections}))
    given = order(command, small_checkpoint, small_data)
    assert main([command, "--recipe", str(recipe), *given, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"has `max_tokens_cot: {length}`, but the checkpoint's answers have at most 160 tokens" in told
    assert "Write `max_tokens_cot: 160`, or import the base model again" in told
    assert not out.exists()
