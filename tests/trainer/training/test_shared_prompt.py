"""A group in one row: a hand-made layout, and the same log-probabilities as with one row per completion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from tests.trainer import many_heads
from trainer.training.hcm_grpo.shared_prompt import GROUP_ATTENTION, IGNORED, once_per_group, share_prompt

PAD = 0


def test_the_layout_equals_one_built_by_hand() -> None:
    """One padded prompt `_ 7 8`, completions `1 2` and `3 _`."""
    ids = torch.tensor([[PAD, 7, 8, 1, 2], [PAD, 7, 8, 3, PAD]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    rows = share_prompt(ids, mask, completion_length=2, group_size=2)
    assert rows.ids.tolist() == [[PAD, 7, 8, 1, 2, 8, 3, PAD]]
    assert rows.positions.tolist() == [[0, 0, 1, 2, 3, 1, 2, 3]]
    assert rows.labels.tolist() == [[IGNORED] * 3 + [1, 2] + [IGNORED] + [3, IGNORED]]
    assert places(rows.prompt_sees[0, 0]) == [[0], [1]]
    assert [places(sees[0]) for sees in rows.completion_sees] == [[[1, 2], [1, 2, 3], [1, 2, 3, 4]]] * 2


def places(sees: Tensor) -> list[list[int]]:
    return [[place for place, seen in enumerate(row) if seen] for row in sees.tolist()]


def test_values_come_back_by_completion() -> None:
    rows = share_prompt(torch.ones(4, 5, dtype=torch.long), torch.ones(4, 5, dtype=torch.long), 2, 2)
    of_token = torch.arange(2 * 8).view(2, 8)[:, 1:]  # the tokens after the first of each row, like shifted labels
    assert rows.by_completion(of_token).tolist() == [[3, 4], [6, 7], [11, 12], [14, 15]]


def test_rows_that_do_not_form_groups_are_refused() -> None:
    ids = torch.tensor([[7, 1], [8, 1]])
    with pytest.raises(ValueError, match="different prompts"):
        share_prompt(ids, torch.ones_like(ids), 1, 2)
    with pytest.raises(ValueError, match="groups of 3"):
        share_prompt(ids, torch.ones_like(ids), 1, 3)


def test_pictures_of_the_first_completion_of_each_group() -> None:
    pictures = torch.tensor(
        [1, 2, 1, 2, 1, 2, 7, 8, 9, 7, 8, 9, 7, 8, 9]
    )  # two groups of three completions, with two and three pictures
    assert once_per_group(pictures, [2, 2, 2, 3, 3, 3], 3).tolist() == [1, 2, 7, 8, 9]


@pytest.fixture(scope="module")
def model(small_checkpoint: Path) -> PreTrainedModel:
    loaded = many_heads.build(small_checkpoint)
    add_fused_lm_head(loaded, outputs=("log_probs", "entropy"))
    return loaded


@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probabilities_and_gradients_are_those_of_completions_by_themselves(
    model: PreTrainedModel, checkpointing: bool
) -> None:
    torch.manual_seed(5)
    model.set_attn_implementation("sdpa")
    ids, mask, pixels = _questions(model, groups=2, size=3, length=6)

    model.zero_grad()
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :-6] = IGNORED
    alone = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels, fused_lm_head=True)
    expected, entropy = alone.log_probs[:, -6:], alone.entropy[:, -6:]
    expected.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    model.config.get_text_config()._attn_implementation = GROUP_ATTENTION
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable()
    rows = share_prompt(ids, mask, 6, 3)
    together = model(
        input_ids=rows.ids,
        attention_mask=rows.completion_sees,
        shared_prompt=rows,
        position_ids=rows.positions,
        pixel_values=once_per_group(pixels, [1] * 6, 3),
        labels=rows.labels,
        fused_lm_head=True,
    )
    found = rows.by_completion(together.log_probs)
    found.sum().backward()
    model.gradient_checkpointing_disable()
    model.eval()

    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(rows.by_completion(together.entropy), entropy, atol=1e-4)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=1e-3), name


def _questions(model: PreTrainedModel, *, groups: int, size: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts of one picture, the first of them padded, with random completions of different lengths."""
    picture = [model.config.image_token_id] * model.config.image_seq_length
    prompts = torch.tensor([[PAD, PAD, 20, *picture, 21], [22, 23, 24, *picture, 25]])[:groups]
    there = torch.tensor([[0, 0] + [1] * (len(picture) + 2), [1] * (len(picture) + 4)])[:groups]
    completions = torch.randint(10, 60, (groups * size, length))
    lengths = torch.randint(1, length + 1, (groups * size, 1))
    wanted = (torch.arange(length) < lengths).long()
    side = model.config.vision_config.image_size[0]
    pixels = torch.randn(groups, 3, side, side).repeat_interleave(size, 0)
    ids = torch.cat([prompts.repeat_interleave(size, 0), completions * wanted], 1)
    return ids, torch.cat([there.repeat_interleave(size, 0), wanted], 1), pixels
