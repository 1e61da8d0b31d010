"""A picture is preprocessed once, however many completions ask about it.

TRL calls the processor twice per step, each time with the pictures of every completion: 2 G times the work for the same
pixels.
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


class RememberingImageProcessor:
    """An image processor that knows the pictures it saw last by their pixels; everything else is the wrapped one's."""

    def __init__(self, processor: Any, *, remembered: int) -> None:
        """
        Args:
            remembered: pictures, the pictures of one step at least.
        """
        self._processor = processor
        self._remembered = remembered
        self._tiles: OrderedDict[tuple[bytes, str], Tensor] = OrderedDict()
        self.processed = 0
        """Pictures that were not known."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The wrapped one's copy: it is what a saved processor is to hold."""
        return copy.deepcopy(self._processor, memo)

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """As the wrapped one: `pixel_values`, all tiles of all pictures, and `num_patches`, tiles per picture."""
        pictures: list[Image.Image] = make_flat_list_of_images(images)
        options["return_tensors"] = "pt"  # whatever was asked for: the processor around it converts
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
