"""Muon: momentum with orthogonalised updates, for the weight matrices of hidden layers.

Method: K. Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of the update
follows J. Liu et al. 2025 (arXiv:2502.16982, section 2.2), so that learning rate and weight decay of AdamW carry over.

`torch.optim.Muon` processes one matrix at a time, which takes seconds per step for many small matrices on a CPU. This
module processes all matrices of one shape together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration; it is steep at zero, so that small singular values grow in a few steps."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices; other shapes are refused."""

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            if any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("Muon accepts only matrices; give other parameters to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix that has a gradient; closures are not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]))  # Nesterov
                directions = orthogonalised(torch.stack(updates))
                scale = 0.2 * math.sqrt(max(shape))
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * scale)


def orthogonalised(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Approximate U Vᵀ of each matrix U S Vᵀ by Newton-Schulz iterations; singular values end between 0.7 and 1.2.

    Args:
        matrices: (batch, rows, columns).
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    # float32, because bfloat16 sums would lose the smallest singular values. Pretraining only rounds the factors of the
    # products (`trainer.training.number_format.rounded_products`).
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
