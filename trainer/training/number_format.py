"""The number format in which the stages compute."""

from __future__ import annotations

import torch


def computed_in(device: torch.device | None = None) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU. A CPU without bfloat16 instructions would compute ten times as long.

    Args:
        device: the device that trains; None for a GPU if there is one.
    """
    on_gpu = torch.cuda.is_available() if device is None else device.type != "cpu"
    return torch.bfloat16 if on_gpu else torch.float32
