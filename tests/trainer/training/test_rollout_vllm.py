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
from screening.images import accept
from screening.inference.generation import prompt_text, tiling_arguments
from screening.inference.pictures import prepare
from screening.prompt import PICTURES_PER_SAMPLE
from tests.trainer.command_line import CHECKPOINT
from trainer.data_directory import read_samples
from trainer.training.hcm_grpo.vllm_rollouts import collapsed
from trainer.training.sft.rows import dataset, rollout_rows, screening_rows

pytestmark = pytest.mark.vllm
MANIFEST = read_manifest(CHECKPOINT)


@cache
def processor(checkpoint: Path = CHECKPOINT) -> Any:
    return AutoProcessor.from_pretrained(checkpoint)


@cache
def by_vllm(checkpoint: Path) -> Any:
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = ModelConfig(model=str(checkpoint), tokenizer=str(checkpoint), dtype="float32", seed=0)
    return MULTIMODAL_REGISTRY.create_processor(config)


def in_vllm(
    checkpoint: Path, prompt: str | list[int], pictures: list[Image.Image], **tiling: Any
) -> tuple[list[int], torch.Tensor]:
    """Tokens and pixels with which vLLM runs the model.

    Args:
        tiling: the engine argument `mm_processor_kwargs`, which a service has and TRL's engine has not.
    """
    vllm = by_vllm(checkpoint)
    found = vllm(prompt, vllm.info.parse_mm_data({"image": pictures}), hf_processor_mm_kwargs=tiling)
    fields = found["mm_kwargs"].get_data()
    return list(found["prompt_token_ids"]), next(
        value for name, value in fields.items() if name.startswith("pixel_values")
    )


def in_rollouts(checkpoint: Path, row: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """Tokens and pixels that TRL gives to the policy in stage 2 (`GRPOTrainer._tokenize_prompts`)."""
    asked = prepare_multimodal_messages(row["prompt"], images=row["images"])
    tokenized = processor(checkpoint).apply_chat_template(
        [asked], add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": None}
    )
    return list(tokenized["input_ids"][0]), torch.stack([torch.as_tensor(one) for one in tokenized["pixel_values"]])


def in_sft(checkpoint: Path, row: dict[str, Any]) -> tuple[list[int], torch.Tensor]:
    """Tokens and pixels of the question in a batch of SFT, without the answer."""
    collate = DataCollatorForVisionLanguageModeling(processor(checkpoint), completion_only_loss=True)
    batch = collate([row])
    return batch["input_ids"][0][batch["labels"][0] == -100].tolist(), batch["pixel_values"]


@pytest.mark.parametrize(
    ("given_checkpoint", "given_data", "tiles"),
    [("shipped_checkpoint", "small_data", PICTURES_PER_SAMPLE), ("tiled_checkpoint", "tiled_data", 5 + 5 + 4 + 1 + 3)],
)
def test_all_paths_ask_with_the_same_tokens_and_pixels(
    request: pytest.FixtureRequest, given_checkpoint: str, given_data: str, tiles: int
) -> None:
    checkpoint, data = request.getfixturevalue(given_checkpoint), request.getfixturevalue(given_data)
    manifest, samples = read_manifest(checkpoint), read_samples(data)[:1]
    [rolled] = dataset(rollout_rows(samples, manifest.prompt), data, manifest.image)
    policy, policy_pixels = in_rollouts(checkpoint, rolled)
    image, begin, end = processor(checkpoint).image_token_ids
    assert policy.count(image) == tiles * manifest.image.tokens_per_picture
    assert policy.count(begin) == policy.count(end) == PICTURES_PER_SAMPLE
    assert policy_pixels.shape == (tiles, 3, manifest.image.size, manifest.image.size)

    rows = screening_rows(samples, manifest.prompt, direct_share=0, seed=0)
    [taught] = dataset(rows, data, manifest.image)
    sft, sft_pixels = in_sft(checkpoint, taught)
    assert sft == policy

    # TRL's engine gets no arguments for tiles.
    given = collapsed(policy, image, begin, end)
    assert (given.count(image), given.count(begin), given.count(end)) == (PICTURES_PER_SAMPLE, 0, 0)
    rollout, rollout_pixels = in_vllm(checkpoint, given, rolled["images"])
    assert rollout == policy

    sent = [(data / file).read_bytes() for file in samples[0].files]
    pictures = [prepare(accept(one), manifest.image).image for one in sent]
    prompt = prompt_text(processor(checkpoint).tokenizer, manifest.prompt, Mode.COT)
    served, served_pixels = in_vllm(checkpoint, prompt, pictures, **tiling_arguments(manifest))
    assert served == policy
    for pixels in (sft_pixels, rollout_pixels, served_pixels):
        assert torch.equal(pixels.float().reshape(policy_pixels.shape), policy_pixels)


@pytest.fixture
def shipped_checkpoint() -> Path:
    return CHECKPOINT


def test_direct_questions_have_the_same_tokens_in_sft_and_in_the_service(small_data: Path) -> None:
    [sample] = read_samples(small_data)[:1]
    [taught] = dataset(screening_rows([sample], MANIFEST.prompt, direct_share=1, seed=0), small_data, MANIFEST.image)
    prompt = prompt_text(processor().tokenizer, MANIFEST.prompt, Mode.DIRECT)
    served, _ = in_vllm(CHECKPOINT, prompt, taught["images"], **tiling_arguments(MANIFEST))
    assert in_sft(CHECKPOINT, taught)[0] == served


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
