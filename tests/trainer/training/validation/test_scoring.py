"""What a model in training is asked, and how its answers are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForImageTextToText, AutoProcessor

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from tests.trainer.training.validation.overfitting import COLOURS, coloured
from trainer.data_directory import read_samples
from trainer.training.recipe.stages import ValidationRecipe
from trainer.training.sft.rows import dataset, rollout_rows
from trainer.training.validation.data import Validation
from trainer.training.validation.scoring import Scorer

pytestmark = pytest.mark.slow


def test_a_model_with_flash_attention_answers_with_kernels_that_take_a_mask(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    """Flash attention would fail here: it runs on GPUs only."""
    data = coloured(tmp_path / "data", [(COLOURS[0], "A")])
    validation = Validation(ValidationRecipe(every_steps=1), data, "sha256:0", tuple(read_samples(data)), Mode.DIRECT)
    scorer = Scorer(
        validation, read_manifest(small_checkpoint), AutoProcessor.from_pretrained(small_checkpoint), batch=1
    )
    model = AutoModelForImageTextToText.from_pretrained(small_checkpoint).eval()
    expected = scorer.score(model, Accelerator(cpu=True))
    model.config._attn_implementation = "flash_attention_2"
    assert scorer.score(model, Accelerator(cpu=True)) == expected
    assert model.config.text_config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("mode", list(Mode))
def test_answers_are_judged_by_the_papers_metric_on_the_question_that_a_rollout_reads(
    mode: Mode, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coloured(tmp_path / "data", list(zip(COLOURS, ("A", "AB", "C", "N", "ABCD", "D"), strict=True)))
    texts = iter(["A", "B", "D", "N", "whatever", "AD"])  # right, right by a subset, three wrong ones and N
    manifest, processor = read_manifest(small_checkpoint), AutoProcessor.from_pretrained(small_checkpoint)
    asked: list[dict[str, torch.Tensor]] = []

    def answer(_model: Any, prompts: dict[str, torch.Tensor], **given: Any) -> list[list[int]]:
        asked.append(prompts)
        assert processor.tokenizer.eos_token_id in given["ends"]
        assert given["max_tokens"] == (256 if mode is Mode.COT else 8)
        written = [next(texts) for _ in prompts["input_ids"]]
        if mode is Mode.COT:
            written = [f"<think>seen</think><answer>{text}</answer>" for text in written]
        return [processor.tokenizer.encode(text, add_special_tokens=False) for text in written]

    monkeypatch.setattr("trainer.training.validation.scoring.roll_out", answer)
    samples = read_samples(data)
    validation = Validation(ValidationRecipe(every_steps=1), data, "sha256:0", tuple(samples), mode)
    model = AutoModelForImageTextToText.from_pretrained(small_checkpoint)
    found = Scorer(validation, manifest, processor, batch=4).score(model, Accelerator(cpu=True))
    assert found == {"validation/score": pytest.approx(50), "validation/unreadable": pytest.approx(100 / 6)}
    assert [len(prompts["input_ids"]) for prompts in asked] == [4, 2]
    if mode is Mode.COT:
        rows = dataset(rollout_rows(samples, manifest.prompt), data, manifest.image)
        text = processor.apply_chat_template(rows[3]["prompt"], add_generation_prompt=True, tokenize=False)
        trained = processor(text=[text], images=[rows[3]["images"]], return_tensors="pt")
        assert torch.equal(asked[0]["input_ids"][3], trained["input_ids"][0])
        assert torch.equal(asked[0]["pixel_values"][15:20], trained["pixel_values"])
