"""The maximum length of an answer that a checkpoint carries: no recipe changes it, and no longer answers are taught."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.checkpoint.manifest import Decoding, read_manifest, store_manifest
from screening.prompt import COMPACT
from trainer.__main__ import main
from trainer.data_directory import DataError, read_samples
from trainer.training.plan.tokens import load_tokenizer
from trainer.training.sft.answer_length import check_lengths
from trainer.training.sft.rows import screening_rows

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


def write_recipe(path: Path, length: int, **changes: Any) -> str:
    """A recipe with this maximum length, and with changes of its SFT stages."""
    sft = STAGE | changes
    sections = {"sft_weak": sft, "sft_answer": sft, "hcm_grpo": STAGE_2}
    path.write_text(yaml.safe_dump({"name": "other", "prompt": "compact", "max_tokens_cot": length, **sections}))
    return str(path)


def lengths(checkpoint: Path, rows: list[dict[str, Any]]) -> list[int]:
    """Tokens of the targets, with the end token."""
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer is not None
    texts = [row["completion"][0]["content"][0]["text"] for row in rows]
    return [1 + len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


@pytest.mark.parametrize("command", ["sft", "hcm-grpo", "ablation"])
@pytest.mark.parametrize("length", [255, 257])
def test_a_training_with_another_length_than_the_checkpoint_is_refused(
    command: str,
    length: int,
    small_data: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, out = write_recipe(tmp_path / "other.yaml", length), tmp_path / "run"
    given = order(command, small_checkpoint, small_data)
    assert main([command, "--recipe", recipe, *given, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"has `max_tokens_cot: {length}`, but the checkpoint's answers have at most 256 tokens" in told
    assert "Write `max_tokens_cot: 256`, or import the base model again" in told
    assert not out.exists()


@pytest.mark.parametrize(
    ("stage", "missing", "begins"),
    [("answer-driven", 1, "error: "), ("weak", 1, "warning: "), ("answer-driven", 0, None)],
)
def test_answers_that_the_checkpoint_may_not_write_are_refused_in_stage_1_2_and_reported_in_stage_1_1(
    stage: str,
    missing: int,
    begins: str | None,
    small_data: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = read_samples(small_data)
    found = lengths(small_checkpoint, screening_rows(samples, COMPACT, direct_share=0, seed=0))
    longest = max(found)
    limit = longest - missing
    start, out = shutil.copytree(small_checkpoint, tmp_path / "start"), tmp_path / "out"
    changed = {"decoding": Decoding(max_tokens_cot=limit)}
    store_manifest(read_manifest(start).model_copy(update=changed), start)
    recipe = write_recipe(tmp_path / "r.yaml", limit, batch_size=7)  # more than the samples, so that no step is taken
    given = ["--recipe", recipe, "--checkpoint", str(start), "--data", str(small_data), "--out", str(out)]
    assert main(["sft", "--stage", stage, *given]) == 2
    assert not out.exists()
    told = capsys.readouterr().err
    assert ("fewer than the 7 of one step" in told) == (begins != "error: ")
    if begins is None:
        assert "longer than the checkpoint may write" not in told
    else:
        name = samples[found.index(longest)].id
        assert f"{begins}the answers of 1 of 6 samples are longer than the checkpoint may write" in told
        assert f": {name} ({longest} tokens, 1 too many). Raise max_tokens_cot to {longest} and import" in told


def test_answers_with_boxes_have_a_limit_of_their_own_and_letters_have_none(
    small_data: Path, small_checkpoint: Path
) -> None:
    samples = read_samples(small_data)
    located = screening_rows(samples, COMPACT, direct_share=0, seed=0, locate=1.0)
    longest = max(lengths(small_checkpoint, located))
    fits = Decoding(max_tokens_cot=100, max_tokens_locate=longest)
    check_lengths(samples, located, fits, small_checkpoint, strict=True)
    less = Decoding(max_tokens_cot=100, max_tokens_locate=longest - 5)
    with pytest.raises(DataError, match=rf"\({longest} tokens, 5 too many\).* Raise max_tokens_cot to 105 and"):
        check_lengths(samples, located, less, small_checkpoint, strict=True)
    letters = screening_rows(samples, COMPACT, direct_share=1, seed=0)
    check_lengths(samples, letters, Decoding(max_tokens_cot=1), small_checkpoint, strict=True)
