"""The features that vLLM's worker remembers, with a small encoder in the place of a model's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from screening.inference.picture_features import (
    GRID,
    LEAST_REMEMBERED,
    LEAST_VARIANCE,
    FeatureCache,
    install,
    pool,
    read_features,
)
from screening.inference.worker_extension import WorkerExtension

SIDE, WIDTH = 16, 6


class Tower(torch.nn.Module):
    """Gives a class token of ones and, for each of four patches, what the pixels begin with."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = pixel_values.flatten(1)[:, : 4 * WIDTH].reshape(-1, 4, WIDTH)
        return torch.cat((torch.ones(len(patches), 1, WIDTH), patches), 1)


class Model(torch.nn.Module):
    def __init__(self, tiles: int = 1) -> None:
        super().__init__()
        self.vision_tower = Tower()
        self.tiles = tiles

    def embed_multimodal(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.vision_tower(pixel_values=pixel_values)
        return tuple(hidden.reshape(-1, self.tiles * hidden.shape[1], WIDTH).unbind(0))


def make_runner(second: bool = False, tiles: int = 1, blocks: int = 8) -> Any:
    """
    Args:
        blocks: size of the KV cache in blocks of 32 tokens.
    """
    model = Model(tiles)
    cache: Any = {"before": torch.zeros(1)}
    group = SimpleNamespace(kv_cache_spec=SimpleNamespace(block_size=32))
    return SimpleNamespace(
        get_model=lambda: model,
        encoder_cache=SimpleNamespace(encoder_outputs=cache) if second else cache,
        kv_cache_config=SimpleNamespace(num_blocks=blocks, kv_cache_groups=[group]),
    )


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def expected(picture: torch.Tensor) -> np.ndarray:
    mean = picture.flatten()[: 4 * WIDTH].reshape(4, WIDTH).mean(0).numpy()
    brightness, side = picture.mean(0).numpy(), SIDE // GRID
    cells = [
        brightness[y * side : (y + 1) * side, x * side : (x + 1) * side].var() for y in range(GRID) for x in range(GRID)
    ]
    return np.concatenate([mean, np.log(np.array(cells) + LEAST_VARIANCE)])


@pytest.mark.parametrize("second", [False, True], ids=["first runner", "second runner"])
def test_each_picture_gets_its_own_features_under_its_name(second: bool) -> None:
    runner = make_runner(second)
    worker = SimpleNamespace(model_runner=runner)
    WorkerExtension.watch_pictures(worker, 4)  # type: ignore[arg-type]
    cache = runner.encoder_cache.encoder_outputs if second else runner.encoder_cache
    shown = pixels(3)
    outputs = runner.get_model().embed_multimodal(pixel_values=shown)
    cache.update(zip(["a", "b"], outputs[:2], strict=True))
    cache["c"] = outputs[2]
    found = WorkerExtension.picture_features(worker, ["c", "a", "never seen", "b"])  # type: ignore[arg-type]
    assert found[2] is None and read_features(found[2]) is None
    for data, place in zip((found[0], found[1], found[3]), (2, 0, 1), strict=True):
        assert read_features(data) == pytest.approx(expected(shown[place]), abs=1e-5)
    assert "before" in cache


def test_features_outlive_the_encoder_cache_and_end_with_the_weights() -> None:
    runner = make_runner()
    cache = install(runner, 4)
    cache["a"] = runner.get_model().embed_multimodal(pixel_values=pixels(1))[0]
    cache.pop("a")
    assert cache.features(["a"])[0] is not None
    cache.clear()
    assert cache.features(["a"]) == [None]


def test_a_picture_encoded_again_by_other_weights_has_their_features() -> None:
    runner = make_runner()
    cache = install(runner, 4)
    for seed in (1, 2):
        shown = pixels(1, seed)
        cache["same name"] = runner.get_model().embed_multimodal(pixel_values=shown)[0]
        assert read_features(cache.features(["same name"])[0]) == pytest.approx(expected(shown[0]), abs=1e-5)


def test_pictures_in_tiles_have_no_features() -> None:
    runner = make_runner(tiles=2)
    cache = install(runner, 4)
    cache["a"] = runner.get_model().embed_multimodal(pixel_values=pixels(2))[0]
    assert cache.features(["a"]) == [None]


def test_an_output_that_no_hook_saw_leaves_no_old_features() -> None:
    runner = make_runner()
    cache = install(runner, 4)
    cache["a"] = runner.get_model().embed_multimodal(pixel_values=pixels(1))[0]
    cache["a"] = torch.zeros(5, WIDTH)
    assert cache.features(["a"]) == [None]


def test_the_pictures_asked_for_last_are_remembered() -> None:
    cache, model = FeatureCache(limit=2), make_runner()
    install(model, 4)
    outputs = model.get_model().embed_multimodal(pixel_values=pixels(3))
    cache["a"], cache["b"] = outputs[:2]
    cache.features(["a"])
    cache["c"] = outputs[2]
    assert [data is None for data in cache.features(["a", "b", "c"])] == [False, True, False]


@pytest.mark.parametrize(("blocks", "remembered"), [(8, LEAST_REMEMBERED), (100_000, 800_000)])
def test_as_many_pictures_are_remembered_as_the_prefix_cache_can_hold(blocks: int, remembered: int) -> None:
    assert install(make_runner(blocks=blocks), tokens_per_picture=4).limit == remembered


def test_a_flat_picture_has_finite_features_in_half_precision() -> None:
    flat = torch.full((1, 3, 18, 18), 0.5, dtype=torch.bfloat16)  # 18 is not a multiple of the grid
    found = pool(flat, torch.zeros(1, 5, WIDTH, dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.shape == (1, WIDTH + GRID**2) and torch.isfinite(found).all()
