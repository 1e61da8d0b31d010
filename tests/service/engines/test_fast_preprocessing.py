"""The prompts that the service assembles equal vLLM's bit for bit; if they differ, the service logs it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from screening.answer import Mode
from screening.checkpoint.manifest import Decoding, ImageContract, read_manifest
from screening.checkpoint.probes import probe_pictures
from screening.inference.generation import cpu_environment, engine_arguments, prompt_text
from screening.prompt import COMPACT, locating
from screening.runtime.environment import QUIET_ENVIRONMENT
from service.engines.fast_preprocessing import FastPrompt, NotPossible
from service.engines.protocol import Question
from service.engines.vllm_engine import VllmEngine
from service.errors import EngineFailed
from tests.service.engine_ends import NoReaper
from tests.service.obedient_engine import change_manifest, make_checkpoint
from tests.squares import load_square

SIZE = 16


@dataclass
class Element:
    """The parts of vLLM's `MultiModalFieldElem` that are used."""

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
    """A fake of vLLM's renderer that differs from it only where a test changes it."""
    calls = iter(range(100))

    async def render(pictures: Sequence[Image.Image]) -> dict[str, Any]:
        call = next(calls)
        items = [
            {
                "pixels": Element(changed.get("pixels", values)(picture)),
                "patches": Element(
                    changed.get("patches", lambda _: torch.tensor(1))(call),
                    changed.get("field", lambda _: "field")(call),
                ),
            }
            for picture in pictures
        ]
        return {
            "type": "multimodal",
            "arrival_time": call,
            "prompt_token_ids": changed.get("tokens", lambda _: [1, 2, 3])(call),
            "mm_placeholders": {"image": [changed.get("place", lambda _: 5)(call)]},
            "mm_hashes": {"image": [f"{call} {i}" for i in range(len(pictures))]},
            "mm_kwargs": {"image": items, **changed.get("more", lambda _: {})(call)},
            **changed.get("keys", lambda _: {})(call),
        }

    return render


def test_every_byte_of_every_picture_is_looked_up() -> None:
    prompt = asyncio.run(FastPrompt.of(processor(), SIZE))
    pictures = noise(7)
    made = prompt(pictures)
    for picture, item in zip(pictures, made["mm_kwargs"]["image"], strict=True):
        assert torch.equal(item["pixels"].data, values(picture)) and item["pixels"].field == "field"
        assert int(item["patches"].data) == 1
    assert made["prompt_token_ids"] == [1, 2, 3]
    assert "arrival_time" not in made, "it would be that of the engine's start"


def test_a_picture_is_named_by_its_pixels() -> None:
    prompt = asyncio.run(FastPrompt.of(processor(), SIZE))

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
    prompt = asyncio.run(FastPrompt.of(processor(), SIZE))
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
        ({"pixels": cut_into_tiles}, "not exactly one tensor"),
        ({"patches": lambda call: torch.tensor(call)}, "patches does not follow"),
        ({"patches": lambda call: torch.tensor(1, dtype=[torch.int64, torch.int32][call])}, "patches does not follow"),
        ({"patches": lambda call: torch.tensor([0.0, -0.0][call])}, "patches does not follow"),
        ({"patches": lambda _: [torch.tensor(1)]}, "patches does not follow"),
        ({"patches": lambda _: None}, "patches does not follow"),
        ({"field": lambda call: f"field {call}"}, "patches does not follow"),
        ({"place": lambda call: call}, "mm_placeholders differs"),
        ({"keys": lambda call: {"cache_salt": "some"} if call else {}}, "the fields are"),
        ({"tokens": lambda call: [1, call]}, "prompt_token_ids differs"),
        ({"more": lambda call: {"video": []} if call else {}}, "more than pictures"),
    ],
)
def test_a_processor_that_does_more_than_look_up_is_found_out(changed, why) -> None:
    with pytest.raises(NotPossible, match=why):
        asyncio.run(FastPrompt.of(processor(**changed), SIZE))


def test_pictures_that_cannot_hold_every_byte_have_no_fast_form() -> None:
    with pytest.raises(NotPossible, match="8 x 8"):
        asyncio.run(FastPrompt.of(processor(), 8))


@pytest.mark.parametrize(
    ("pictures", "why"),
    [
        (noise(1, SIZE * 2), "must be RGB of"),
        ([picture.resize((SIZE * 4, SIZE // 4)) for picture in noise(1)], "must be RGB of"),
        ([picture.convert("L") for picture in noise(1)], "must be RGB of"),
        (noise(1, count=4), "zip"),
    ],
)
def test_anything_but_five_pictures_of_this_size_is_refused(pictures, why) -> None:
    prompt = asyncio.run(FastPrompt.of(processor(), SIZE))
    with pytest.raises(ValueError, match=why):
        prompt(pictures)


class AnsweringLLM:
    """An engine with its own processor that answers at once and records its prompts."""

    def __init__(self, render: Callable[[Sequence[Image.Image]], Any]) -> None:
        self.vllm_config = SimpleNamespace(speculative_config=None)
        self.errored = False
        self.renderer = self
        self.engine_core = self
        self._render = render
        self.rendered = 0
        self.made: list[Any] = []
        """What it rendered last."""
        self.asked: list[Any] = []
        self.texts: list[str] = []
        """Texts that it rendered last."""
        self.limits: list[int] = []
        """Maximum number of tokens of each answer."""

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(
            apply_chat_template=lambda *_, **__: "the question",
            encode=lambda *_, **__: [1],
            decode=lambda *_, **__: "x",
        )

    async def render_cmpl_async(self, prompts: list[Any], **_: object) -> list[Any]:
        self.rendered += 1
        self.texts = [prompt["prompt"] for prompt in prompts]
        self.made = [await self._render(prompt["multi_modal_data"]["image"]) for prompt in prompts]
        return self.made

    async def generate(self, prompt: object, sampling: Any, _request_id: str, **_: object) -> AsyncIterator[Any]:
        self.asked.append(prompt)
        self.limits.append(sampling.max_tokens)
        completion = SimpleNamespace(finish_reason="stop", token_ids=[], logprobs=None, weight_versions=())
        yield SimpleNamespace(outputs=[completion], prompt_token_ids=[1])

    async def done(self, *_: object, **__: object) -> None: ...

    clear_mm_cache_async = pause_scheduler_async = collective_rpc = update_weight_version = resume_generation = done

    output_handler = None

    def shutdown(self) -> None: ...


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Engines that a test leaves running keep nothing from the garbage collection of the tests after it."""
    yield
    gc.unfreeze()


async def started(llm: AnsweringLLM, checkpoint: Path, engine: VllmEngine | None = None) -> VllmEngine:
    engine = engine or VllmEngine()
    engine._load = lambda *_: llm  # type: ignore[method-assign, assignment, return-value]
    engine._reaper = NoReaper()  # type: ignore[assignment]
    await engine.start(checkpoint)
    llm.asked.clear()
    llm.rendered = 0
    return engine


def brighter(picture: Image.Image) -> torch.Tensor:
    return values(picture) + 1


@pytest.mark.vllm
def test_the_engine_looks_pictures_up_in_the_table_of_the_engine_that_it_has(tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "one", 1)
    pictures = tuple(noise(3, 112))

    async def run() -> None:
        engine = None
        for pixels in (values, brighter):  # restarted with another processor and the same prompt
            llm = AnsweringLLM(processor(pixels=pixels))
            engine = await started(llm, checkpoint, engine)
            await engine.generate(Question("one", Mode.COT, pictures))
            (asked,) = llm.asked
            assert asked["type"] == "multimodal" and llm.rendered == 0
            for picture, item in zip(pictures, asked["mm_kwargs"]["image"], strict=True):
                assert torch.equal(item["pixels"].data, pixels(picture))

    asyncio.run(run())


@pytest.mark.vllm
def test_prepared_prompts_are_not_rendered_again_and_unused_ones_are_forgotten(tmp_path, monkeypatch) -> None:
    one, two = (make_checkpoint(tmp_path / name, seed) for name, seed in (("one", 1), ("two", 2)))
    before, after = read_manifest(one), read_manifest(two).model_copy(update={"probes": None})
    monkeypatch.setattr(
        "service.engines.prompt_rendering.prompt_text",
        lambda _, __, mode, _locate: f"{mode} of {'two' if expecting else 'one'}",
    )
    expecting = False

    async def run() -> None:
        nonlocal expecting
        llm = AnsweringLLM(processor())
        engine = await started(llm, one)
        expecting = True
        await engine.expect(after)
        assert llm.rendered == 2 * len(Mode)
        llm.rendered = 0
        await engine.reload(two, after)
        assert llm.rendered == 0
        expecting = False
        await engine.reload(one, before)  # back, which was not expected
        assert llm.rendered == 2 * len(Mode)

    asyncio.run(run())


@pytest.mark.vllm
@pytest.mark.parametrize(
    "changed", [{"pixels": blurred}, {"pixels": lambda _: None}, {"more": lambda _: {"image": []}}]
)
def test_without_a_fast_form_vllm_renders_and_the_log_says_why(tmp_path, caplog, changed) -> None:
    async def run() -> None:
        llm = AnsweringLLM(processor(**changed))
        engine = await started(llm, make_checkpoint(tmp_path / "one", 1))
        before = llm.rendered
        await engine.generate(Question("one", Mode.COT, tuple(noise(3, 112))))
        assert llm.rendered == before + 1
        assert llm.asked[-1]["mm_hashes"] == llm.made[0]["mm_hashes"]

    with caplog.at_level("INFO"):
        asyncio.run(run())
    assert [record.getMessage() for record in caplog.records].count("fast preprocessing not possible") == 1


@pytest.mark.vllm
def test_a_question_for_places_has_its_own_prompt_and_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("service.engines.prompt_rendering.prompt_text", lambda _, prompt, *form: prompt.text(*form))
    able, plain = (make_checkpoint(tmp_path / name, 1) for name in ("able", "plain"))
    decoding = Decoding(max_tokens_cot=100, max_tokens_locate=300)
    change_manifest(able, prompt=locating(COMPACT), decoding=decoding)

    async def run() -> None:
        llm, pictures = AnsweringLLM(processor()), tuple(noise(3, 112))
        engine = await started(llm, able, VllmEngine(fast_preprocessing=False))
        for locate, text in ((False, COMPACT.cot), (True, locating(COMPACT).locate)):
            await engine.generate(Question("one", Mode.COT, pictures, locate))
            assert llm.texts == [text]
        assert engine.checkpoint.locates and llm.limits[-2:] == [100, 300]
        await engine.reload(plain, read_manifest(plain))
        assert not engine.checkpoint.locates

    asyncio.run(run())


@pytest.mark.vllm
def test_fast_preprocessing_can_be_switched_off(tmp_path) -> None:
    async def run() -> None:
        llm = AnsweringLLM(processor())
        engine = await started(llm, make_checkpoint(tmp_path / "one", 1), VllmEngine(fast_preprocessing=False))
        await engine.generate(Question("one", Mode.COT, tuple(noise(3, 112))))
        assert llm.rendered == 1 and llm.asked == llm.made

    asyncio.run(run())


@pytest.mark.vllm
def test_vllm_prepares_pictures_that_are_cut_into_tiles(tmp_path) -> None:
    """Small pictures have one tile, for which a table would be right; it would fail the large ones."""
    checkpoint = make_checkpoint(tmp_path / "one", 1)
    change_manifest(checkpoint, image=ImageContract(size=112, tokens_per_picture=16, max_patches=4))

    async def run() -> None:
        llm = AnsweringLLM(processor())
        engine = await started(llm, checkpoint)
        for size in (112, 224):
            await engine.generate(Question("one", Mode.COT, tuple(noise(3, size))))
            assert llm.asked[-1:] == llm.made
        assert llm.rendered == 2

    asyncio.run(run())


@pytest.mark.vllm
def test_the_objects_of_a_running_engine_are_left_out_of_garbage_collection(tmp_path) -> None:
    async def run() -> None:
        engine = await started(AnsweringLLM(processor()), make_checkpoint(tmp_path / "one", 1))
        assert gc.get_freeze_count() > 100_000  # torch and vLLM alone
        await engine.stop()
        assert gc.get_freeze_count() == 0

    asyncio.run(run())


@pytest.mark.vllm
def test_pictures_of_another_size_fail_their_request_alone(tmp_path) -> None:
    async def run() -> None:
        engine = await started(AnsweringLLM(processor()), make_checkpoint(tmp_path / "one", 1))
        with pytest.raises(EngineFailed, match="does not accept these pictures"):
            await engine.generate(Question("one", Mode.COT, tuple(noise(3, 96))))

    asyncio.run(run())


@pytest.fixture(scope="module")
def renderer(tiny_checkpoint):
    """vLLM's renderer of the shipped checkpoint, without an engine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET_ENVIRONMENT, **cpu_environment()}.items():
            patch.setenv(name, value)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.renderers import renderer_from_config

        arguments = engine_arguments(tiny_checkpoint, read_manifest(tiny_checkpoint), device="cpu", draft_tokens=0)
        arguments["mm_processor_cache_gb"] = 0  # as in the service
        renderer = renderer_from_config(AsyncEngineArgs(**arguments).create_engine_config())
    yield renderer
    renderer.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_op`:FutureWarning")
@pytest.mark.parametrize("mode", list(Mode))
def test_the_fast_form_equals_vllms_rendering(renderer, tiny_checkpoint, wordy_sample, mode) -> None:
    manifest = read_manifest(tiny_checkpoint)
    size = manifest.image.size
    text = prompt_text(renderer.get_tokenizer(), manifest.prompt, mode)

    async def render(pictures: Sequence[Image.Image]) -> dict[str, Any]:
        prompt = {"prompt": text, "multi_modal_data": {"image": list(pictures)}}
        (rendered,) = await renderer.render_cmpl_async([prompt], skip_mm_cache=True)
        return dict(rendered)

    async def run() -> None:
        short = await FastPrompt.of(render, size)
        products = [load_square(data, size) for data in wordy_sample(0).pictures]
        plain = [Image.new("RGB", (size, size), colour) for colour in ("black", "white", "red", "lime", "blue")]
        for pictures in (products, plain, noise(11, size), probe_pictures(3, size)):
            made, rendered = short(pictures), await render(pictures)
            assert made["prompt_token_ids"] == rendered["prompt_token_ids"]
            assert type(made["mm_kwargs"]) is type(rendered["mm_kwargs"])
            assert made["mm_placeholders"] == rendered["mm_placeholders"]
            for mine, theirs in zip(made["mm_kwargs"]["image"], rendered["mm_kwargs"]["image"], strict=True):
                assert type(mine) is type(theirs) and mine.keys() == theirs.keys()
                for name, element in theirs.items():
                    assert torch.equal(mine[name].data, element.data) and mine[name].data.dtype == element.data.dtype
                    assert mine[name].field == element.field
            assert len(made["mm_hashes"]["image"]) == len(rendered["mm_hashes"]["image"]) == 5

    asyncio.run(run())
