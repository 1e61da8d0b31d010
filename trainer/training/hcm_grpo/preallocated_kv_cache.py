"""A key-value cache with room to grow: a token is written behind the others instead of copying all of them.

transformers' DynamicCache joins old and new at every token, which for a small model on a CPU took half of a rollout;
its StaticCache makes every token attend to the whole room.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

LEAST_ROOM = 128
"""Tokens."""


class PreallocatedLayer(DynamicLayer):
    """`keys` and `values` are the filled part of larger tensors."""

    keys: Tensor
    values: Tensor
    _rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, D) keys and values; returns all, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < after:
            size = after + max(LEAST_ROOM, after // 2)
            self._rooms = self._moved(self.keys, key_states, size), self._moved(self.values, value_states, size)
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = (room[..., :after, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch. They are copied, so room is made anew with the next token."""
        super().batch_select_indices(indices)
        self._rooms = None

    @staticmethod
    def _moved(filled: Tensor, like: Tensor, size: int) -> Tensor:
        room = torch.empty(*like.shape[:-2], size, like.shape[-1], dtype=like.dtype, device=like.device)
        if filled.numel():
            room[..., : filled.shape[-2], :] = filled
        return room


def preallocated_kv_cache() -> Cache:
    """An empty cache for a model whose layers all attend to everything."""
    return Cache(layer_class_to_replicate=PreallocatedLayer)
