"""Computes the bytes of AdamW's state: two moments per trained value.

In float32 a value takes 8 bytes. bitsandbytes' 8-bit AdamW (Dettmers et al. 2022) takes 2, and for each block of 256
values two float32 scales; a tensor has its own blocks, and the last may be smaller. Tensors of fewer than 4,096 values
(`min_8bit_size`) keep 8 bytes per value, and so do embeddings, which transformers exempts. Two tables of 256 float32
numbers, which all tensors share, translate the 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainer.training.plan.parameters import Part

FLOAT32_STATE = 8
"""Bytes per value whose two moments are in float32."""
BLOCK = 256
MIN_8BIT_SIZE = 4096
TABLES = 2 * 256 * 4
"""Bytes of the two tables."""

TITLES = {"adamw": "optimizer (AdamW)", "adamw_8bit": "optimizer (AdamW, 8 bits)"}
"""Optimizer of a recipe → its use of memory."""


def state_bytes(optimizer: str, parts: Iterable[Part], adapters: Iterable[int] = ()) -> int:
    """Bytes of the optimizer's state.

    Args:
        optimizer: `adamw` or `adamw_8bit`.
        parts: parts of the model that are trained in full.
        adapters: number of values of each matrix of the adapters.
    """
    if optimizer == "adamw":
        return FLOAT32_STATE * (sum(part.total for part in parts) + sum(adapters))
    states = TABLES + sum(map(_in_8_bits, adapters))
    for part in parts:
        states += FLOAT32_STATE * part.total if part.name == "embeddings" else sum(map(_in_8_bits, part.tensors))
    return states


def _in_8_bits(values: int) -> int:
    if values < MIN_8BIT_SIZE:
        return FLOAT32_STATE * values
    return 2 * values + 2 * 4 * -(-values // BLOCK)
