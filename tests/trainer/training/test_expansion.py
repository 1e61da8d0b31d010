"""More layers for a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from screening.errors import CheckpointError
from trainer.training.architecture import Architecture, load_model
from trainer.training.expansion import origins_of_layers

SIZES = {"image_size": 64, "vision_width": 32, "text_width": 32, "text_mlp": 64}


@pytest.fixture(scope="module")
def question() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[9, 8, *[5] * 4, 7, 12, 30]])
    return {"input_ids": ids, "pixel_values": torch.randn((1, 3, 64, 64), generator=torch.manual_seed(3))}


def test_more_layers_compute_the_same_and_can_be_trained(
    small_checkpoint: Path, question: dict[str, torch.Tensor]
) -> None:
    start = load_model(small_checkpoint, Architecture(**SIZES, vision_layers=1, text_layers=1))
    larger = load_model(small_checkpoint, Architecture(**SIZES, vision_layers=3, text_layers=2))
    assert larger.config.vision_config.num_hidden_layers == 3 and larger.config.text_config.num_hidden_layers == 2
    assert larger.generation_config.eos_token_id == start.generation_config.eos_token_id
    with torch.no_grad():
        torch.testing.assert_close(larger(**question).logits, start(**question).logits, atol=0, rtol=0)

    larger(**question).logits.square().mean().backward()
    added = [*larger.model.vision_tower.encoder.layer[1:], *larger.model.language_model.layers[1:]]
    written = [*(layer.attention.projection_layer for layer in added[:2]), added[2].self_attn.o_proj]
    assert all(one.weight.grad is not None and one.weight.grad.abs().max() > 0 for one in written)


def test_other_sizes_are_refused(small_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="does not have the sizes of the recipe's architecture"):
        load_model(small_checkpoint, Architecture(**SIZES | {"text_mlp": 96}, vision_layers=2, text_layers=1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (4, 4, "0 1 2 3"),
        (4, 6, "0 1 1+ 2 2+ 3"),
        (5, 6, "0 1 2 2+ 3 4"),
        (1, 3, "0 0+ 0+"),
        (2, 4, "0 0+ 1 1+"),
    ],
)
def test_new_layers_lie_evenly_between_the_old_ones(old: int, new: int, expected: str) -> None:
    assert " ".join(f"{layer}{'+' * copy}" for layer, copy in origins_of_layers(old, new)) == expected
