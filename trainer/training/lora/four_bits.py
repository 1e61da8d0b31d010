"""Layers in 4 bits, as bitsandbytes computes them."""

from __future__ import annotations

from torch import nn


def keep_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit layers for inference.

    On a CPU with AVX512-BF16 instructions, it packs a layer when the layer first computes in evaluation mode, as in the
    first rollouts. From then on, the layer passes no gradients back, and layers with fewer inputs than a block fail.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
