"""Preprocesses each picture once, however many completions ask about it.

TRL calls the processor twice per step, each time with the pictures of every completion, which is 2 G times the work.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import make_flat_list_of_images


class CachingImageProcessor:
    """An image processor that caches the results for its latest pictures, by their pixels; the rest is delegated."""

    def __init__(self, processor: Any, *, remembered: int) -> None:
        """
        Args:
            remembered: number of pictures to keep; at least those of one step.
        """
        self._processor = processor
        self._remembered = remembered
        self._tiles: OrderedDict[tuple[bytes, str], Tensor] = OrderedDict()
        self.processed = 0
        """Number of pictures that were not in the cache."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the wrapped processor, so that a saved processor holds that one."""
        return copy.deepcopy(self._processor, memo)

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """Return `pixel_values` (all tiles) and `num_patches` (tiles per picture), as the wrapped processor does."""
        pictures: list[Image.Image] = make_flat_list_of_images(images)
        options["return_tensors"] = "pt"  # in any case: the processor that calls this one converts the result
        setting = repr(sorted(options.items(), key=str))
        keys = [(_digest(picture), setting) for picture in pictures]
        unknown = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._tiles}
        if unknown:
            self.processed += len(unknown)
            made = self._processor(list(unknown.values()), **options)
            self._tiles.update(zip(unknown, made["pixel_values"].split(made["num_patches"].tolist()), strict=True))
        tiles = [self._tiles[key] for key in keys]
        for key in keys:
            self._tiles.move_to_end(key)
        while len(self._tiles) > self._remembered:
            self._tiles.popitem(last=False)
        counts = torch.tensor([len(tile) for tile in tiles])
        return BatchFeature({"pixel_values": torch.cat(tiles), "num_patches": counts})


def _digest(picture: Image.Image) -> bytes:
    content = hashlib.blake2b(picture.tobytes(), digest_size=16)
    content.update(f"{picture.mode}{picture.size}".encode())
    return content.digest()
