"""The number format in which the stages compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from screening.runtime.machine import has_bfloat16


def computed_in(device: torch.device | None = None) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU. A CPU without bfloat16 instructions would compute ten times as long.

    Args:
        device: the device that trains; None for a GPU if there is one.
    """
    on_gpu = torch.cuda.is_available() if device is None else device.type != "cpu"
    return torch.bfloat16 if on_gpu else torch.float32


def pretraining_computes_in(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU and on a CPU with instructions for it, else float32.

    Pretraining takes hours, and a step with bfloat16 instructions takes two thirds of the time of one in float32.
    """
    return torch.bfloat16 if device.type != "cpu" or has_bfloat16() else torch.float32


@contextmanager
def rounded_products(device: torch.device) -> Iterator[None]:
    """Round the factors of float32 matrix products to bfloat16 if pretraining computes in it; undone at the end.

    Autocast does not reach the optimizer. Muon's products took 0.20 s per step of the recipe `tiny` without this, and
    0.09 with it (two cores).
    """
    before = torch.get_float32_matmul_precision()
    if pretraining_computes_in(device) is torch.bfloat16:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
