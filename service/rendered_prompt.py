"""A prompt as vLLM renders it, into which other pictures' pixels are put.

vLLM has transformers' processor prepare each request from its text and pictures: a third of this process's work on a
CPU. Of two requests with the same text all of it is the same but the pixels, and of those each value follows from the
one byte that it was. So vLLM renders one request whose pictures hold every byte, the values are read off as a table,
and from then on looked up. A second request, of noise, shows whether what is put together is what vLLM renders, to the
bit; if it is not (a processor that cuts tiles, or resizes), there is no short way, and vLLM renders each request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from screening.prompt import PICTURES_PER_SAMPLE

if TYPE_CHECKING:
    import torch

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
        self._rendered = {key: value for key, value in rendered.items() if key != _OWN_TIME}
        self._items: list[Any] = list(rendered["mm_kwargs"]["image"])
        shape = (1, 3, *pictures[0].size)
        found = [name for name, element in self._items[0].items() if tuple(element.data.shape) == shape]
        if len(found) != 1:
            raise NoShortWay(f"no single tensor of {shape} among {sorted(self._items[0])}")
        (self._pixels,) = found
        values: torch.Tensor = self._items[0][self._pixels].data
        self._table = values.new_empty(3, _LEVELS).scatter_(1, _levels(pictures[0]), values.flatten(2)[0])
        """(3, 256): of each channel, the value of each byte."""

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
        """The `MultiModalInput` of these pictures, as many as were rendered, RGB, of the same size.

        A few milliseconds of work without the interpreter's lock: call it in a thread.
        """
        items = [self._item(*pair) for pair in zip(self._items, pictures, strict=True)]
        # What names a picture in vLLM's caches: its pixels alone, since everything else is the same for all.
        names = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
        return {
            **self._rendered,
            "prompt_token_ids": list(self._rendered["prompt_token_ids"]),
            "mm_kwargs": type(self._rendered["mm_kwargs"])({"image": items}),
            "mm_hashes": {"image": names},
        }

    def _item(self, item: Any, picture: Image.Image) -> Any:
        element = item[self._pixels]
        values = self._table.gather(1, _levels(picture)).view_as(element.data)
        return type(item)({**item, self._pixels: replace(element, data=values)})


def _levels(picture: Image.Image) -> torch.Tensor:
    """(3, pixels): the bytes of each channel, as indices."""
    import torch

    return torch.from_numpy(np.asarray(picture).reshape(-1, 3).T.astype(np.int64))


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
    """Whether two requests are the same but for the names of their pictures.

    Raises:
        NoShortWay: they are not.
    """
    import torch

    if made.keys() != rendered.keys() - {_OWN_TIME}:
        raise NoShortWay(f"{sorted(made)} were made, {sorted(rendered)} rendered")
    for key in made.keys() - {"mm_kwargs", "mm_hashes"}:
        if repr(made[key]) != repr(rendered[key]):  # some hold tensors, which are not compared by ==
            raise NoShortWay(f"{key} differs from one request to the next")
    if made["mm_kwargs"].keys() != rendered["mm_kwargs"].keys():
        raise NoShortWay("there is more than pictures in it")
    for mine, theirs in zip(made["mm_kwargs"]["image"], rendered["mm_kwargs"]["image"], strict=True):
        for name in mine.keys() | theirs.keys():
            a, b = mine.get(name), theirs.get(name)
            if a is None or b is None or a.data.dtype != b.data.dtype or not torch.equal(a.data, b.data):
                raise NoShortWay(f"{name} does not follow from the single bytes of a picture")
