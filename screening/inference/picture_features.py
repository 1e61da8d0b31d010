"""Features of each picture that vLLM's worker has read, as one vector: the input of `screening.checkpoint.domain`.

The features of a picture are:

- the mean of the vision tower's last layer over the picture's patches (its class token is left out), and
- the logarithm of the variance of brightness in each cell of a grid of 4 x 4 over the pixels.

docs/decisions/out-of-domain.md gives the reasons. vLLM's worker computes the features while it encodes a picture: a
hook on the vision tower pools them, and a dictionary in place of vLLM's encoder cache keeps them under the name that
vLLM gives the picture. This module imports neither vllm nor torch, because the service imports it too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

GRID = 4
"""Number of cells on each side of the grid."""
LEAST_VARIANCE = 1e-5
"""Added to the variance of brightness, so that the logarithm of a flat cell is finite."""
LEAST_REMEMBERED = 16_384
"""Minimum number of latest pictures whose features a worker keeps. The number must be more than the encoder cache and
the prefix cache hold, because a picture in one of them is not encoded again."""

_TIED = "picture_features"
"""Attribute of an encoder's output that holds the picture's features."""

Vector = np.ndarray[Any, np.dtype[np.float32]]


class FeatureCache(dict[str, Any]):
    """vLLM's encoder cache, which also keeps the features of the pictures that passed through it."""

    def __init__(self, limit: int = LEAST_REMEMBERED) -> None:
        """
        Args:
            limit: number of latest pictures whose features are kept.
        """
        super().__init__()
        self.limit = limit
        self._features: OrderedDict[str, Any] = OrderedDict()

    def __setitem__(self, name: str, tokens: Any) -> None:
        """
        Args:
            tokens: the encoder's output for one picture. `_hook` has attached the picture's features to it.
        """
        super().__setitem__(name, tokens)
        if (features := getattr(tokens, _TIED, None)) is None:
            self._features.pop(name, None)
            return
        self._features[name] = features
        if len(self._features) > self.limit:
            self._features.popitem(last=False)

    def update(self, *mappings: Any, **more: Any) -> None:
        """Update through `__setitem__`. One of vLLM's two model runners fills the cache this way."""
        for name, tokens in dict(*mappings, **more).items():
            self[name] = tokens

    def clear(self) -> None:
        """Forget everything. vLLM calls this when other weights are loaded."""
        super().clear()
        self._features.clear()

    def features(self, names: Sequence[str]) -> list[bytes | None]:
        """Return features of pictures as little-endian float32; None for an unknown picture."""
        return [self._features_of(name) for name in names]

    def _features_of(self, name: str) -> bytes | None:
        if (pooled := self._features.get(name)) is None:
            return None
        self._features.move_to_end(name)
        data: bytes = pooled.cpu().numpy().astype("<f4").tobytes()
        return data


def read_features(data: bytes | None) -> Vector | None:
    """Decode a vector from `FeatureCache.features`."""
    return None if data is None else np.frombuffer(data, dtype="<f4")


def install(runner: Any, tokens_per_picture: int) -> FeatureCache:
    """Make a model runner of vLLM 0.32 keep the features of the pictures that it encodes.

    Call this when the runner has its KV cache, whose size decides how many pictures are remembered.

    The first runner (`v1/worker/gpu_model_runner.py`, also used on CPUs) has the encoder cache as a dictionary. The
    second one (`v1/worker/gpu/model_runner.py`) has the dictionary inside an object. vLLM has no public access to the
    vision tower's output.
    """
    _hook(runner.get_model())
    kv_cache = runner.kv_cache_config
    tokens = kv_cache.num_blocks * max(group.kv_cache_spec.block_size for group in kv_cache.kv_cache_groups)
    cache = FeatureCache(max(LEAST_REMEMBERED, tokens // tokens_per_picture))
    if isinstance(runner.encoder_cache, dict):
        dict.update(cache, runner.encoder_cache)
        runner.encoder_cache = cache
    else:
        dict.update(cache, runner.encoder_cache.encoder_outputs)
        runner.encoder_cache.encoder_outputs = cache
    return cache


def pool(pixels: Any, hidden: Any) -> Any:
    """Compute the features of pictures, as a tensor of (pictures, width + 16).

    Args:
        pixels: tensor of (pictures, 3, side, side), the input of the vision tower.
        hidden: tensor of (pictures, 1 + patches, width), its output, the class token first.
    """
    means = hidden[:, 1:].float().mean(1)
    brightness = pixels.float().mean(1)
    side = brightness.shape[-1] // GRID * GRID
    cells = brightness[:, :side, :side].unflatten(2, (GRID, -1)).unflatten(1, (GRID, -1)).transpose(2, 3)
    cells = cells.reshape(len(pixels), GRID * GRID, -1)
    # torch's own variance takes four times as long. The cancellation error is far below LEAST_VARIANCE.
    variances = ((cells * cells).mean(2) - cells.mean(2) ** 2).clamp(min=0)
    features = means.new_empty((len(pixels), means.shape[1] + GRID * GRID))
    features[:, : means.shape[1]] = means
    features[:, means.shape[1] :] = (variances + LEAST_VARIANCE).log()
    return features


def _hook(model: Any) -> None:
    """Attach the features of each picture to the tensor that the model's encoder returns for it."""
    pooled: list[Any] = []
    encode = model.embed_multimodal

    def look(_tower: Any, _arguments: Any, named: Any, hidden: Any) -> None:
        pooled.extend(pool(named["pixel_values"], hidden).unbind(0))

    def embed_multimodal(**arguments: Any) -> Any:
        pooled.clear()
        outputs = encode(**arguments)
        if len(pooled) == len(outputs):  # not with tiles, of which one output has several
            for output, features in zip(outputs, pooled, strict=True):
                setattr(output, _TIED, features)
        return outputs

    model.vision_tower.register_forward_hook(look, with_kwargs=True)
    model.embed_multimodal = embed_multimodal
