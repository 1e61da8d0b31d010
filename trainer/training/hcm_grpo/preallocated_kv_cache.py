"""A preallocated key-value cache: a new token is written after the others, without copying them.

transformers' DynamicCache copies all keys and values for every token, which took half of a small model's rollout on a
CPU. Its StaticCache makes every token attend to the whole buffer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

LEAST_SPARE = 128
"""Minimum number of tokens that are allocated in advance."""


class PreallocatedLayer(DynamicLayer):
    """A layer whose `keys` and `values` are the filled part of larger buffers."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) keys and values; returns all of them, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < after:
            size = after + max(LEAST_SPARE, after // 2)
            self._buffers = self._enlarged(self.keys, key_states, size), self._enlarged(self.values, value_states, size)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., before:after, :] = new
        self.keys, self.values = (buffer[..., :after, :] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch. They are copied, and the next token allocates new buffers."""
        super().batch_select_indices(indices)
        self._buffers = None

    @staticmethod
    def _enlarged(filled: Tensor, like: Tensor, size: int) -> Tensor:
        buffer = torch.empty(*like.shape[:-2], size, like.shape[-1], dtype=like.dtype, device=like.device)
        if filled.numel():
            buffer[..., : filled.shape[-2], :] = filled
        return buffer


def preallocated_kv_cache() -> Cache:
    """Make an empty cache for a model whose layers all use full attention."""
    return Cache(layer_class_to_replicate=PreallocatedLayer)
