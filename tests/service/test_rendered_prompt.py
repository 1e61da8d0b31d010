"""What the service puts together itself is to the bit what vLLM renders; and where it would not be, it says so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from screening.answer import Mode
from screening.checkpoint import read_manifest
from screening.generation import QUIET_ENVIRONMENT, cpu_environment, engine_arguments, prompt_text
from screening.images import load_square
from screening.probes import probe_pictures
from service.rendered_prompt import NoShortWay, RenderedPrompt

SIZE = 16


@dataclass
class Element:
    """As much of vLLM's `MultiModalFieldElem` as is touched."""

    data: torch.Tensor
    field: str = "field"


def noise(seed: int, size: int = SIZE, count: int = 5) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


def values(picture: Image.Image) -> torch.Tensor:
    """(1, 3, size, size): what most processors make of a picture."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.2).unsqueeze(0).bfloat16()


def processor(**changed: Callable[..., Any]) -> Callable[[Sequence[Image.Image]], Any]:
    """A stand-in for vLLM's renderer, honest but for what is changed."""
    calls = iter(range(100))

    async def render(pictures: Sequence[Image.Image]) -> dict[str, Any]:
        call = next(calls)
        items = [
            {
                "pixels": Element(changed.get("pixels", values)(picture)),
                "patches": Element(torch.tensor(changed.get("patches", lambda _: 1)(call))),
            }
            for picture in pictures
        ]
        return {
            "type": "multimodal",
            "arrival_time": call,
            "prompt_token_ids": changed.get("tokens", lambda _: [1, 2, 3])(call),
            "mm_placeholders": {"image": [(5, torch.ones(4))]},
            "mm_hashes": {"image": [f"{call} {i}" for i in range(len(pictures))]},
            "mm_kwargs": {"image": items, **changed.get("more", lambda _: {})(call)},
        }

    return render


def test_every_byte_of_every_picture_is_looked_up() -> None:
    prompt = asyncio.run(RenderedPrompt.of(processor(), SIZE))
    pictures = noise(7)
    made = prompt(pictures)
    for picture, item in zip(pictures, made["mm_kwargs"]["image"], strict=True):
        assert torch.equal(item["pixels"].data, values(picture)) and item["pixels"].field == "field"
        assert int(item["patches"].data) == 1
    assert made["prompt_token_ids"] == [1, 2, 3]
    assert "arrival_time" not in made, "it would be that of the engine's start"


def test_a_picture_is_named_by_its_pixels() -> None:
    prompt = asyncio.run(RenderedPrompt.of(processor(), SIZE))

    def names(pictures: Sequence[Image.Image]) -> list[str]:
        found: list[str] = prompt(pictures)["mm_hashes"]["image"]
        return found

    first, second = noise(1), noise(2)
    assert len(set(names(first) + names(second))) == 10
    assert names([second[0], *first[1:]]) == [names(second)[0], *names(first)[1:]]
    other = first[0].copy()
    other.putpixel((3, 5), tuple(value ^ 1 for value in first[0].getpixel((3, 5))))
    assert names([other, *first[1:]])[0] != names(first)[0]


def test_two_requests_share_nothing_that_vllm_may_change() -> None:
    prompt = asyncio.run(RenderedPrompt.of(processor(), SIZE))
    prompt(noise(1))["prompt_token_ids"].append(99)
    assert prompt(noise(1))["prompt_token_ids"] == [1, 2, 3]


def mirrored(picture: Image.Image) -> torch.Tensor:
    return values(picture).flip(3)


def blurred(picture: Image.Image) -> torch.Tensor:
    return values(picture.resize((SIZE // 2, SIZE // 2)).resize((SIZE, SIZE)))


def by_its_own_mean(picture: Image.Image) -> torch.Tensor:
    found = values(picture)
    return found - found.mean()


def of_another_channel(picture: Image.Image) -> torch.Tensor:
    return values(picture)[:, [2, 1, 0]]


def cut_into_tiles(picture: Image.Image) -> torch.Tensor:
    return values(picture).repeat(2, 1, 1, 1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pixels": mirrored}, "pixels does not follow"),
        ({"pixels": blurred}, "pixels does not follow"),
        ({"pixels": by_its_own_mean}, "pixels does not follow"),
        ({"pixels": of_another_channel}, "pixels does not follow"),
        ({"pixels": cut_into_tiles}, "no single tensor"),
        ({"patches": lambda call: call}, "patches does not follow"),
        ({"tokens": lambda call: [1, call]}, "prompt_token_ids differs"),
        ({"more": lambda call: {"video": []} if call else {}}, "more than pictures"),
    ],
)
def test_a_processor_that_does_more_than_look_up_is_found_out(changed, why) -> None:
    with pytest.raises(NoShortWay, match=why):
        asyncio.run(RenderedPrompt.of(processor(**changed), SIZE))


def test_pictures_that_cannot_hold_every_byte_have_no_short_way() -> None:
    with pytest.raises(NoShortWay, match="8 x 8"):
        asyncio.run(RenderedPrompt.of(processor(), 8))


def test_a_picture_of_another_size_is_not_taken_for_one_of_this() -> None:
    prompt = asyncio.run(RenderedPrompt.of(processor(), SIZE))
    with pytest.raises(RuntimeError):
        prompt(noise(1, SIZE * 2))
    with pytest.raises(ValueError, match="zip"):
        prompt(noise(1, count=4))


@pytest.fixture(scope="module")
def renderer(tiny_checkpoint):
    """vLLM's own, of the shipped checkpoint, without an engine behind it."""
    os.environ.update({**QUIET_ENVIRONMENT, **cpu_environment()})
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.renderers import renderer_from_config

    arguments = engine_arguments(tiny_checkpoint, read_manifest(tiny_checkpoint), device="cpu", draft_tokens=0)
    renderer = renderer_from_config(AsyncEngineArgs(**arguments).create_engine_config())
    yield renderer
    renderer.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_op`:FutureWarning")
@pytest.mark.parametrize("mode", list(Mode))
def test_it_is_what_vllm_renders(renderer, tiny_checkpoint, wordy_sample, mode) -> None:
    manifest = read_manifest(tiny_checkpoint)
    size = manifest.image.size
    text = prompt_text(renderer.get_tokenizer(), manifest.prompt, mode)

    async def render(pictures: Sequence[Image.Image]) -> dict[str, Any]:
        prompt = {"prompt": text, "multi_modal_data": {"image": list(pictures)}}
        (rendered,) = await renderer.render_cmpl_async([prompt], skip_mm_cache=True)
        return dict(rendered)

    async def run() -> None:
        short = await RenderedPrompt.of(render, size)
        products = [load_square(data, size) for data in wordy_sample(0).pictures]
        plain = [Image.new("RGB", (size, size), colour) for colour in ("black", "white", "red", "lime", "blue")]
        for pictures in (products, plain, noise(11, size), probe_pictures(3, size)):
            made, rendered = short(pictures), await render(pictures)
            assert made["prompt_token_ids"] == rendered["prompt_token_ids"]
            assert type(made["mm_kwargs"]) is type(rendered["mm_kwargs"])
            assert repr(made["mm_placeholders"]) == repr(rendered["mm_placeholders"])
            for mine, theirs in zip(made["mm_kwargs"]["image"], rendered["mm_kwargs"]["image"], strict=True):
                assert type(mine) is type(theirs) and mine.keys() == theirs.keys()
                for name, element in theirs.items():
                    assert torch.equal(mine[name].data, element.data) and mine[name].data.dtype == element.data.dtype
                    assert repr(mine[name].field) == repr(element.field)
            assert len(made["mm_hashes"]["image"]) == len(rendered["mm_hashes"]["image"]) == 5

    asyncio.run(run())
