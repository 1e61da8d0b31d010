"""One question has the same tokens in SFT, in rollouts with and without vLLM, and in the service, pictures expanded.

vLLM's own processor runs here, which needs no engine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from screening.answer import Answer, Mode, render
from screening.checkpoint.manifest import read_manifest
from screening.inference.generation import prompt_text
from screening.prompt import PICTURES_PER_SAMPLE
from tests.trainer.command_line import CHECKPOINT
from trainer.data_directory import read_picture, read_samples
from trainer.training.hcm_grpo.vllm_rollouts import collapsed
from trainer.training.sft.rows import dataset, rollout_rows, screening_rows

pytestmark = pytest.mark.vllm
MANIFEST = read_manifest(CHECKPOINT)


@cache
def processor() -> Any:
    return AutoProcessor.from_pretrained(CHECKPOINT)


@cache
def by_vllm() -> Any:
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = ModelConfig(model=str(CHECKPOINT), tokenizer=str(CHECKPOINT), dtype="float32", seed=0)
    return MULTIMODAL_REGISTRY.create_processor(config)


def in_vllm(prompt: str | list[int], pictures: list[Image.Image]) -> tuple[list[int], torch.Tensor]:
    """Tokens and pixels with which vLLM runs the model."""
    vllm = by_vllm()
    found = vllm(prompt, vllm.info.parse_mm_data({"image": pictures}))
    fields = found["mm_kwargs"].get_data()
    return list(found["prompt_token_ids"]), next(
        value for name, value in fields.items() if name.startswith("pixel_values")
    )


def in_rollouts(row: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """Tokens and pixels that TRL gives to the policy in stage 2 (`GRPOTrainer._tokenize_prompts`)."""
    asked = prepare_multimodal_messages(row["prompt"], images=row["images"])
    tokenized = processor().apply_chat_template(
        [asked], add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": None}
    )
    return list(tokenized["input_ids"][0]), torch.stack([torch.as_tensor(one) for one in tokenized["pixel_values"]])


def in_sft(row: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """Tokens and pixels of the question in a batch of SFT, without the answer."""
    collate = DataCollatorForVisionLanguageModeling(processor(), completion_only_loss=True)
    batch = collate([row])
    return batch["input_ids"][0][batch["labels"][0] == -100].tolist(), batch["pixel_values"]


@pytest.fixture
def pictures(small_data: Path) -> list[Image.Image]:
    files = read_samples(small_data)[0].files
    return [read_picture(small_data, file, MANIFEST.image) for file in files]


def test_all_paths_ask_with_the_same_tokens_and_pixels(small_data: Path, pictures: list[Image.Image]) -> None:
    samples = read_samples(small_data)[:1]
    [rolled] = dataset(rollout_rows(samples, MANIFEST.prompt), small_data, MANIFEST.image)
    policy, policy_pixels = in_rollouts(rolled)
    image, begin, end = processor().image_token_ids
    assert policy.count(image) == PICTURES_PER_SAMPLE * MANIFEST.image.tokens_per_picture
    assert policy.count(begin) == policy.count(end) == PICTURES_PER_SAMPLE

    rows = screening_rows(samples, MANIFEST.prompt, direct_share=0, seed=0)
    [taught] = dataset(rows, small_data, MANIFEST.image)
    sft, sft_pixels = in_sft(taught)
    assert sft == policy

    given = collapsed(policy, image, begin, end)
    assert (given.count(image), given.count(begin), given.count(end)) == (PICTURES_PER_SAMPLE, 0, 0)
    rollout, rollout_pixels = in_vllm(given, pictures)
    assert rollout == policy

    served, served_pixels = in_vllm(prompt_text(processor().tokenizer, MANIFEST.prompt, Mode.COT), pictures)
    assert served == policy
    for pixels in (sft_pixels, rollout_pixels, served_pixels):
        assert torch.equal(pixels.float().reshape(policy_pixels.shape), policy_pixels)


def test_direct_questions_have_the_same_tokens_in_sft_and_in_the_service(
    small_data: Path, pictures: list[Image.Image]
) -> None:
    rows = screening_rows(read_samples(small_data)[:1], MANIFEST.prompt, direct_share=1, seed=0)
    [taught] = dataset(rows, small_data, MANIFEST.image)
    served, _ = in_vllm(prompt_text(processor().tokenizer, MANIFEST.prompt, Mode.DIRECT), pictures)
    assert in_sft(taught)[0] == served


def test_sft_ends_an_answer_where_the_engine_stops(small_data: Path) -> None:
    """The answer that is taught is the text that the service reads, and the token that ends generation follows it."""
    [sample] = read_samples(small_data)[:1]
    [taught] = dataset(screening_rows([sample], MANIFEST.prompt, direct_share=0, seed=0), small_data, MANIFEST.image)
    batch = DataCollatorForVisionLanguageModeling(processor(), completion_only_loss=True)([taught])
    labels = batch["labels"][0]
    answer, tokenizer = labels[labels != -100].tolist(), processor().tokenizer
    written = tokenizer.encode(render(Answer(sample.options, sample.reasoning), Mode.COT), add_special_tokens=False)
    assert answer[: len(written)] == written
    assert answer[len(written)] == tokenizer.eos_token_id
