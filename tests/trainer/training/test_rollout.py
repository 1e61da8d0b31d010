"""Sampling of tokens, and completions compared with those of transformers' `generate`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.trainer import many_heads
from trainer.training.hcm_grpo import rollout
from trainer.training.hcm_grpo.rollout import Sampling, choose, roll_out
from trainer.training.hcm_grpo.shared_prompt import GROUP_ATTENTION
from trainer.training.recipe.recipe import RecipeError


def frequencies(logits: list[float], sampling: Sampling) -> list[float]:
    torch.manual_seed(1)
    drawn = choose(torch.tensor([logits]).repeat(20000, 1), sampling)
    return (drawn.bincount(minlength=len(logits)) / 20000).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.8), [0.625, 0.375, 0, 0]),  # the two reach top_p exactly
        (Sampling(top_p=0.81), [0.526, 0.316, 0.158, 0]),
        (Sampling(top_p=0.1), [1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.8), [0.625, 0.375, 0, 0]),  # of three: 0.526, 0.316, 0.158
        (Sampling(temperature=0.5), [0.685, 0.247, 0.062, 0.007]),
        (Sampling(top_k=9), [0.5, 0.3, 0.15, 0.05]),
    ],
)
def test_a_token_is_drawn_by_its_probability_among_those_that_are_kept(
    sampling: Sampling, expected: list[float]
) -> None:
    found = frequencies(torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist(), sampling)
    assert found == pytest.approx(expected, abs=0.015)


def test_a_suppressed_token_leaves_its_share_to_the_others() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(2000, 1)
    drawn = choose(logits, Sampling(top_k=2), never=[0])
    assert drawn.unique().tolist() == [1, 2]


@pytest.fixture(scope="module")
def model(small_checkpoint: Path) -> PreTrainedModel:
    return many_heads.build(small_checkpoint)


@pytest.fixture(scope="module")
def prompts(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two prompts of different lengths about one picture each."""
    torch.manual_seed(3)
    picture = [model.config.image_token_id] * model.config.image_seq_length
    side = model.config.vision_config.image_size[0]
    return {
        "input_ids": torch.tensor([[0, 0, 20, *picture, 21], [22, 23, 24, *picture, 25]]),
        "attention_mask": torch.tensor([[0, 0] + [1] * (len(picture) + 2), [1] * (len(picture) + 4)]),
        "pixel_values": torch.randn(2, 3, side, side),
    }


def test_greedy_completions_are_those_of_generate(model: PreTrainedModel, prompts: dict[str, Tensor]) -> None:
    alone = model.generate(**prompts, do_sample=False, max_new_tokens=12, eos_token_id=None)
    ours = roll_out(model, prompts, group_size=2, sampling=Sampling(top_k=1), max_tokens=12, ends=[])
    width = prompts["input_ids"].shape[1]
    assert ours == [alone[question, width:].tolist() for question in (0, 0, 1, 1)]


def test_a_completion_ends_with_the_token_that_ends_it_whatever_the_others_do(
    model: PreTrainedModel, prompts: dict[str, Tensor]
) -> None:
    """The end tokens are at different places of the greedy completions, so that rows leave the batch one by one."""
    whole = roll_out(model, prompts, group_size=1, sampling=Sampling(top_k=1), max_tokens=12, ends=[])
    for end in {whole[0][2], whole[1][5]}:
        until = [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in whole]
        cut = roll_out(model, prompts, group_size=3, sampling=Sampling(top_k=1), max_tokens=12, ends=[end])
        assert cut == [tokens for tokens in until for _ in range(3)]


@pytest.mark.parametrize("attention", ["sdpa", GROUP_ATTENTION])
def test_every_token_is_drawn_from_what_the_model_gives_to_that_completion_alone(
    attention: str, model: PreTrainedModel, prompts: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions of a group differ and end at different steps. None may see another or end with it."""
    text, size, length = model.config.get_text_config(), 4, 12
    steps: list[Tensor] = []

    def keep(logits: Tensor, sampling: Sampling, _never: object) -> Tensor:
        steps.append(logits.clone())
        return choose(logits, sampling)

    monkeypatch.setattr(rollout, "choose", keep)
    torch.manual_seed(2)
    text._attn_implementation = attention
    ends = list(range(0, text.vocab_size, 12))  # about every twelfth sampled token ends a completion
    drawn = roll_out(model, prompts, group_size=size, sampling=Sampling(), max_tokens=length, ends=ends)
    text._attn_implementation = "sdpa"
    assert len({len(tokens) for tokens in drawn}) > 2
    for number, tokens in enumerate(drawn):
        assert [token in ends for token in tokens[:-1]] == [False] * (len(tokens) - 1)
        assert len(tokens) == length or tokens[-1] in ends
        question = slice(number // size, number // size + 1)
        ids = torch.cat([prompts["input_ids"][question], torch.tensor([tokens])], 1)
        mask = torch.cat([prompts["attention_mask"][question], torch.ones(1, len(tokens), dtype=torch.long)], 1)
        with torch.no_grad():
            alone = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                pixel_values=prompts["pixel_values"][question],
            ).logits[0, -len(tokens) - 1 :]
        whole = [step for step in steps if len(step) == len(drawn)]  # before a question has left the batch
        for at, step in enumerate(whole[: len(tokens)]):
            assert torch.allclose(step[number], alone[at], atol=1e-4)


def test_a_model_that_diverged_is_reported_before_a_token_is_drawn(
    model: PreTrainedModel, prompts: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.lm_head.weight, "data", torch.full_like(model.lm_head.weight, torch.nan))
    with pytest.raises(RecipeError, match=r"the training diverged: .* Lower learning_rate"):
        roll_out(model, prompts, group_size=2, sampling=Sampling(top_k=3), max_tokens=3, ends=[])
    # The validation of a run with earlier, better weights goes on.
    assert len(roll_out(model, prompts, group_size=1, sampling=Sampling(top_k=1), max_tokens=3, ends=[])) == 2


@pytest.mark.slow
def test_a_group_is_drawn_from_the_models_own_distribution(model: PreTrainedModel, prompts: dict[str, Tensor]) -> None:
    one = {name: value[1:] for name, value in prompts.items()}
    with torch.no_grad():
        first = model(**one).logits[0, -1].float().topk(3)
    torch.manual_seed(0)
    drawn = roll_out(model, one, group_size=4000, sampling=Sampling(top_k=3), max_tokens=1, ends=[])
    counts = torch.tensor([tokens[0] for tokens in drawn]).bincount(minlength=int(first.indices.max()) + 1)
    shares = (counts[first.indices] / 4000).tolist()
    assert shares == pytest.approx(first.values.softmax(-1).tolist(), abs=0.04)
