"""Samples completions for a batch of questions. Each prompt is read once, and its G completions continue from there.

A group is one row, as in `shared_prompt`. At every step, each of its completions adds one token to the row. The tokens
of a step have the same position, and each sees the prompt and its own completion:

    p p p … p | a b c d | a b c d | a b …

So the cache holds the keys and values of a prompt once per group. With one row per completion, as in transformers'
`generate`, it holds them G times, and reading them from memory takes most of a small model's step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from trainer.training.hcm_grpo.preallocated_kv_cache import preallocated_kv_cache


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is sampled: top-k first, then top-p among these."""

    temperature: float = 1.0
    top_k: int = 0
    """0 for all tokens."""
    top_p: float = 1.0


def choose(logits: Tensor, sampling: Sampling, never: Sequence[int] = ()) -> Tensor:
    """Sample one token per row of (N, V) logits; returns (N,).

    Args:
        never: tokens that must not be sampled.
    """
    if never:
        logits = logits.index_fill(-1, torch.tensor(never, device=logits.device), float("-inf"))
    kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    if kept == 1:  # no random number is drawn, so that a greedy answer changes nothing that is sampled after it
        return logits.argmax(-1)
    values, tokens = (logits.float() / sampling.temperature).topk(kept)
    probabilities = values.softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities  # a token is dropped if those before it already reach top_p
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0)
    return tokens.gather(-1, probabilities.multinomial(1))[:, 0]


@torch.no_grad()
def roll_out(
    model: Any,
    prompts: dict[str, Tensor],
    *,
    group_size: int,
    sampling: Sampling,
    max_tokens: int,
    ends: Collection[int],
    never: Sequence[int] = (),
) -> list[list[int]]:
    """Sample a group of completions for every prompt.

    Args:
        model: an image-text-to-text model whose attention takes a boolean mask (`sdpa` or `group_attention`). Its mode
            (train or eval) is not changed.
        prompts: `input_ids` and `attention_mask`, (Q, P), padded on the left, and `pixel_values`.
        ends: tokens that end a completion.
        never: tokens that must not be sampled.

    Returns:
        Q x group_size completions, group by group, each with the token that ended it, unless it was cut.

    Raises:
        RecipeError: the model gives values that are not finite after a prompt, so that no token can be drawn. Greedy
            answers are given all the same: a validation scores them, and the run publishes its best weights.
    """
    mask = prompts["attention_mask"]
    # On a CPU, bypass accelerate's autocast: it casts all weights for every token, which takes eight times as long.
    forward = model if mask.is_cuda or isinstance(model, FSDPModule) else partial(type(model).forward, model)
    cache = preallocated_kv_cache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = forward(**prompts, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    if sampling.top_k != 1 and not output.logits.isfinite().all():
        from trainer.training.recipe.recipe import RecipeError  # needs pydantic, which `gpu-check` may lack

        raise RecipeError("the training diverged: the model's logits are not finite. Lower learning_rate")
    logits = output.logits.expand(-1, group_size, -1)

    final = torch.tensor(sorted(ends), device=mask.device)
    completions: list[list[list[int]]] = [[[] for _ in range(group_size)] for _ in mask]
    rows = torch.arange(len(mask), device=mask.device)  # the question that each row of the batch belongs to
    running = torch.ones(len(mask), group_size, dtype=torch.bool, device=mask.device)
    sees = mask.bool()[:, None, None].expand(-1, 1, group_size, -1)
    itself = torch.eye(group_size, dtype=torch.bool, device=mask.device).expand(len(mask), 1, -1, -1)
    position = positions[:, -1:].expand(-1, group_size)
    for _ in range(max_tokens):
        tokens = choose(logits.flatten(0, 1), sampling, never).view(-1, group_size)
        for row, group, wanted in zip(rows.tolist(), tokens.tolist(), running.tolist(), strict=True):
            for completion, token, is_wanted in zip(completions[row], group, wanted, strict=True):
                if is_wanted:  # tokens after the end of a completion are ignored
                    completion.append(token)
        running &= torch.isin(tokens, final, invert=True)
        unfinished = running.any(1)
        if not unfinished.any():
            break
        if 2 * int(unfinished.sum()) <= len(rows):  # moving the cache costs as much as a few tokens
            kept = unfinished.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            tokens, sees, itself, position, rows, running = (
                t[kept] for t in (tokens, sees, itself, position, rows, running)
            )
        sees = torch.cat([sees, itself], -1)
        position = position + 1
        output = forward(
            input_ids=tokens,
            attention_mask=sees,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits
    return [completion for group in completions for completion in group]
