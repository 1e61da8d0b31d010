"""The caching image processor processes each picture once and gives the same result as the wrapped one."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor

from trainer.training.hcm_grpo.pictures import CachingImageProcessor


def processor(checkpoint: Path, remembered: int = 10) -> CachingImageProcessor:
    return CachingImageProcessor(AutoProcessor.from_pretrained(checkpoint).image_processor, remembered=remembered)


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (shade, 10, 20))


def test_equal_pictures_are_processed_once(small_checkpoint: Path) -> None:
    remembering = processor(small_checkpoint)
    images = [[picture(1), picture(2)], [picture(1), picture(2)]]
    plain = AutoProcessor.from_pretrained(small_checkpoint).image_processor(images, return_tensors="pt")
    for _ in range(2):
        found = remembering(images, return_tensors="pt")
        assert torch.equal(found["pixel_values"], plain["pixel_values"])
        assert found["num_patches"].tolist() == plain["num_patches"].tolist()
    assert remembering.processed == 2


def test_the_oldest_pictures_are_forgotten(small_checkpoint: Path) -> None:
    remembering = processor(small_checkpoint, remembered=2)
    for shade in (1, 2, 3, 1):
        remembering([picture(shade)])
    assert remembering.processed == 4
    many = remembering([picture(shade) for shade in range(5)])
    assert len(many["pixel_values"]) == 5, "more pictures at once than the cache holds"


def test_other_options_are_another_picture(small_checkpoint: Path) -> None:
    remembering = processor(small_checkpoint)
    plain = remembering([picture(1)])["pixel_values"]
    raw = remembering([picture(1)], do_normalize=False)["pixel_values"]
    assert not torch.equal(plain, raw)
    assert remembering.processed == 2


def test_everything_else_is_the_wrapped_processors(small_checkpoint: Path, tmp_path: Path) -> None:
    whole = AutoProcessor.from_pretrained(small_checkpoint)
    whole.image_processor = processor(small_checkpoint)
    whole.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again.image_processor) is type(AutoProcessor.from_pretrained(small_checkpoint).image_processor)
