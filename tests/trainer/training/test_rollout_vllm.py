"""vLLM's prompt for rollouts has the tokens on which the policy is trained. vLLM's processor needs no engine here."""

from __future__ import annotations

import pytest
from PIL import Image
from transformers import AutoProcessor
from trl.data_utils import prepare_multimodal_messages

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from screening.prompt import PICTURES_PER_SAMPLE, messages
from tests.trainer.command_line import CHECKPOINT
from trainer.training.hcm_grpo.grpo_trainer import collapsed


@pytest.mark.vllm
def test_vllm_reads_the_prompt_that_the_policy_is_trained_on() -> None:
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    manifest, processor = read_manifest(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    side = manifest.image.size
    pictures = [Image.new("RGB", (side, side), (40 * number, 120, 90)) for number in range(PICTURES_PER_SAMPLE)]
    asked = prepare_multimodal_messages(messages(manifest.prompt, Mode.COT), images=pictures)
    [trained] = processor.apply_chat_template(
        [asked], add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs={"return_tensors": None}
    )["input_ids"]
    image, begin, end = processor.image_token_ids
    assert trained.count(image) == PICTURES_PER_SAMPLE * manifest.image.tokens_per_picture
    assert trained.count(begin) == trained.count(end) == PICTURES_PER_SAMPLE

    given = collapsed(trained, image, begin, end)
    assert (given.count(image), given.count(begin), given.count(end)) == (PICTURES_PER_SAMPLE, 0, 0)
    vllm = MULTIMODAL_REGISTRY.create_processor(
        ModelConfig(model=str(CHECKPOINT), tokenizer=str(CHECKPOINT), dtype="bfloat16", seed=0)
    )
    assert list(vllm(given, vllm.info.parse_mm_data({"image": pictures}))["prompt_token_ids"]) == trained
