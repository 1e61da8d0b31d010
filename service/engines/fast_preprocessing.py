"""A prompt as vLLM renders it, into which other pictures' pixels are put.

vLLM has transformers' processor prepare each request from its text and pictures: a quarter of this process's work on a
CPU. Of two requests with the same text all of it is the same but the pixels, and of those each value follows from the
one byte that it was. So vLLM renders one request whose pictures hold every byte, the values are read off as a table,
and from then on looked up. A second request, of noise, shows whether what is put together is what vLLM renders, to the
bit; if it is not (a processor that cuts tiles, or resizes), there is no short way, and vLLM renders each request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from PIL import Image

from screening.prompt import PICTURES_PER_SAMPLE

Render = Callable[[Sequence[Image.Image]], Awaitable[dict[str, Any]]]
"""vLLM's renderer with the prompt's text: from its pictures to a `MultiModalInput`."""

_LEVELS = 256
_OWN_TIME = "arrival_time"
"""What each request has of its own; vLLM takes the time itself where it is not given."""


class NoShortWay(Exception):
    """What vLLM makes of a picture does not follow from its single bytes; the message says what is in the way."""


class RenderedPrompt:
    """One text, and any pictures of one size."""

    def __init__(self, rendered: dict[str, Any], pictures: Sequence[Image.Image]) -> None:
        """
        Args:
            rendered: what vLLM made of the text and `_every_level`'s pictures.
            pictures: those.

        Raises:
            NoShortWay: no part of it has a value for each byte.
        """
        self._size = pictures[0].size
        self._rendered = {key: value for key, value in rendered.items() if key != _OWN_TIME}
        items, shape = list(rendered["mm_kwargs"]["image"]), (1, 3, *self._size)
        found = [name for name, element in items[0].items() if _shape(element) == shape]
        if len(found) != 1:
            raise NoShortWay(f"no single tensor of {shape} among {sorted(items[0])}")
        (self._pixels,) = found
        values = items[0][self._pixels].data
        self._dtype = values.dtype
        self._table = _table(_bits(values), pictures[0])
        # Without the pixels of the first pictures.
        self._items = [type(item)({**item, self._pixels: replace(item[self._pixels], data=None)}) for item in items]

    @classmethod
    async def of(cls, render: Render, size: int) -> Self:
        """Have two requests rendered, see how, and try it.

        Args:
            size: of the pictures, in pixels; at least 16, or they cannot hold every byte.

        Raises:
            NoShortWay: see there.
        """
        known = _every_level(size)
        prompt = cls(await render(known), known)
        noise = np.random.default_rng(size).integers(0, _LEVELS, (PICTURES_PER_SAMPLE, size, size, 3), dtype=np.uint8)
        pictures = [Image.fromarray(picture) for picture in noise]
        _check_same(prompt(pictures), await render(pictures))
        return prompt

    def __call__(self, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """The `MultiModalInput` of other pictures: half a millisecond for five of 128 pixels, seven for 448.

        Raises:
            ValueError: they are not as many as were rendered, RGB, and of the same size.
        """
        items, names = [], []
        for item, picture in zip(self._items, pictures, strict=True):
            if picture.size != self._size or picture.mode != "RGB":
                raise ValueError(f"a picture is {picture.mode} of {picture.size}; it must be RGB of {self._size}")
            pixels = np.asarray(picture)
            items.append(type(item)({**item, self._pixels: replace(item[self._pixels], data=self._looked_up(pixels))}))
            # What names a picture in vLLM's caches: its pixels alone, since everything else is the same for all.
            names.append(hashlib.sha256(pixels.data).hexdigest())
        return {
            **self._rendered,
            "prompt_token_ids": list(self._rendered["prompt_token_ids"]),
            "mm_kwargs": type(self._rendered["mm_kwargs"])({"image": items}),
            "mm_hashes": {"image": names},
        }

    def _looked_up(self, pixels: np.ndarray) -> Any:
        """From (height, width, 3) bytes to a tensor of (1, 3, height, width)."""
        import torch

        # Not by torch, which starts a team of threads for each thread that calls it.
        planes = [self._table[channel].take(pixels[..., channel], mode="clip") for channel in range(3)]
        return torch.from_numpy(np.stack(planes)[np.newaxis]).view(self._dtype)


def _table(bits: np.ndarray, picture: Image.Image) -> np.ndarray:
    """(3, 256): of each channel, what stands for each byte."""
    table = np.zeros((3, _LEVELS), bits.dtype)
    for channel, levels in enumerate(np.moveaxis(np.asarray(picture), 2, 0)):
        table[channel, levels] = bits[0, channel]
    return table


def _shape(element: Any) -> tuple[int, ...] | None:
    """Of a field's tensor in this process's memory; None for anything else that a field may hold."""
    data = element.data
    return tuple(data.shape) if getattr(data, "is_cpu", False) else None


def _bits(tensor: Any) -> np.ndarray:
    """A tensor's values as integers of their size: numpy knows no bfloat16, and 0.0 is not -0.0."""
    import torch

    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits: np.ndarray = tensor.contiguous().view(sizes[tensor.element_size()]).numpy()
    return bits


def _every_level(size: int) -> list[Image.Image]:
    """Pictures of which each holds every byte in every channel, all differently ordered."""
    if size * size < _LEVELS:
        raise NoShortWay(f"{size} x {size} pixels do not hold {_LEVELS} values")
    pixels = np.arange(size * size).reshape(size, size, 1)
    channels = np.array([0, 85, 170])
    return [
        Image.fromarray(((pixels + channels + 50 * k) % _LEVELS).astype(np.uint8)) for k in range(PICTURES_PER_SAMPLE)
    ]


def _check_same(made: dict[str, Any], rendered: dict[str, Any]) -> None:
    """That two requests are the same but for the names of their pictures.

    Raises:
        NoShortWay: they are not.
    """
    if made.keys() != rendered.keys() - {_OWN_TIME}:
        raise NoShortWay(f"{sorted(made)} were made, {sorted(rendered)} rendered")
    for key in made.keys() - {"mm_kwargs", "mm_hashes"}:
        if made[key] != rendered[key]:
            raise NoShortWay(f"{key} differs from one request to the next")
    if made["mm_kwargs"].keys() != rendered["mm_kwargs"].keys():
        raise NoShortWay("there is more than pictures in it")
    for mine, theirs in zip(made["mm_kwargs"]["image"], rendered["mm_kwargs"]["image"], strict=True):
        for name in mine.keys() | theirs.keys():
            if name not in mine or name not in theirs or not _same(mine[name], theirs[name]):
                raise NoShortWay(f"{name} does not follow from the single bytes of a picture")


def _same(one: Any, other: Any) -> bool:
    shape = _shape(one)
    return (
        shape is not None
        and shape == _shape(other)
        and one.data.dtype == other.data.dtype
        and np.array_equal(_bits(one.data), _bits(other.data))
        and one.field == other.field
    )
