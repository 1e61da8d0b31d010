"""The token count of a sample, compared with the processor's."""

from __future__ import annotations

import pytest

from screening.checkpoint.manifest import with_thumbnail
from tests.trainer.training.plan.model_2b import SHAPES, reasoned, with_base
from trainer.training.plan.architectures import find_model
from trainer.training.plan.shapes import shapes_of
from trainer.training.plan.tokens import count_tokens, load_tokenizer


@pytest.mark.parametrize("tiles", [1, 4])
def test_the_prompt_is_as_long_as_the_processor_makes_it(tiny_checkpoint, tiles) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    from screening.answer import Mode
    from screening.prompt import PROMPTS, locating, messages

    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    config = find_model(with_base(tiny_checkpoint)).config
    per_picture = shapes_of(config, with_thumbnail(tiles)).most_tokens
    assert per_picture == {1: 1, 4: 5}[tiles] * config.image_seq_length
    for prompt in PROMPTS.values():
        text = processor.apply_chat_template(messages(prompt, Mode.COT), add_generation_prompt=True, tokenize=False)
        pictures = [Image.new("RGB", (tiles * 128, 128)) for _ in range(5)]
        real = len(processor(text=[text], images=pictures, max_patches=tiles)["input_ids"][0])
        asked = messages(locating(prompt), Mode.COT, locate=True)
        text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        real_with_places = len(processor(text=[text], images=pictures, max_patches=tiles)["input_ids"][0])
        counted = count_tokens(prompt, per_picture, load_tokenizer(tiny_checkpoint))
        assert counted.measured
        assert (counted.prompt, counted.locating_prompt) == (real, real_with_places)
        assert counted.pictures == 5 * per_picture


def test_an_estimate_without_a_tokenizer_errs_on_the_long_side(tiny_checkpoint) -> None:
    from screening.prompt import COMPACT

    measured = count_tokens(COMPACT, 16, load_tokenizer(tiny_checkpoint), [reasoned()])
    estimated = count_tokens(COMPACT, 16, None, [reasoned()])
    assert not estimated.measured
    assert measured.prompt <= estimated.prompt <= measured.prompt + 20
    assert measured.longest_answer <= estimated.longest_answer <= 1.5 * measured.longest_answer


def test_a_picture_of_internvl3_is_256_tokens() -> None:
    assert SHAPES.tokens_per_picture == (448 // 14 // 2) ** 2 == 256
    assert SHAPES.vision_length == 32 * 32 + 1
    assert SHAPES.folded_width == 4 * 1024
