"""Muon: orthogonal updates, all matrices of one shape at once."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from trainer.research.pretrain.muon import Muon, orthogonalised
from trainer.training.number_format import rounded_products


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (2, 40, 12)])
@pytest.mark.parametrize("rounded", [False, True])
def test_updates_have_singular_values_near_one_in_the_directions_of_the_gradient(
    shape: tuple[int, ...], rounded: bool
) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    with rounded_products(torch.device("cpu")) if rounded else nullcontext():
        update = orthogonalised(matrices, steps=8)
    found = torch.linalg.svdvals(update)
    assert found.min() > 0.6
    assert found.max() < 1.3
    along = torch.einsum("brk,brc,bkc->bk", u, update, vh)
    assert along.min() > 0.6, "each singular direction is kept, with its sign"


def test_the_first_step_is_the_orthogonal_gradient_at_the_scale_of_adamw() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 20))
    start = weight.detach().clone()
    weight.grad = torch.randn(8, 20)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    expected = start * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 20**0.5 * orthogonalised(weight.grad[None])[0]
    torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=1e-4)


def test_a_restored_optimizer_continues_as_the_first_would_have() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(3, 6, 6)
    weights = [torch.nn.Parameter(torch.eye(6)) for _ in range(2)]
    optimizers = [Muon([w], lr=0.1) for w in weights]
    for number, gradient in enumerate(gradients):
        if number == 2:
            weights[1].data.copy_(weights[0].data)
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        for weight, optimizer in zip(weights, optimizers, strict=True):
            if number == 2 or weight is weights[0]:
                weight.grad = gradient.clone()
                optimizer.step()
    assert torch.equal(weights[0], weights[1])


def test_a_parameter_that_is_not_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
