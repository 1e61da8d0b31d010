"""Completions for a batch of questions: each prompt is read once, and G completions go on from there.

What transformers' `generate` does, less what a group does not need: it reads the prompt of every completion, pictures
and all, and keeps finished completions in the batch until the last one ends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn: the k most probable, of these the fewest that hold a share p, by their probability."""

    temperature: float = 1.0
    top_k: int = 0
    """0 takes all."""
    top_p: float = 1.0


def choose(logits: Tensor, sampling: Sampling) -> Tensor:
    """One token per row of (N, V) logits, (N,)."""
    kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    values, tokens = (logits.float() / sampling.temperature).topk(kept)
    probabilities = values.softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities  # a token goes when those before it hold the share already
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
) -> list[list[int]]:
    """Sample a group of completions for every prompt.

    Args:
        model: an image-text-to-text model; its mode (train or eval) is left as it is.
        prompts: `input_ids` and `attention_mask`, (Q, P), padded on the left, and `pixel_values`.
        ends: tokens that end a completion.

    Returns:
        Q x group_size completions, group by group, each with the token that ended it, if one did.
    """
    mask = prompts["attention_mask"]
    # On a CPU past accelerate's autocast, which casts all weights for every token and so takes eight times as long.
    forward = model if mask.is_cuda else partial(type(model).forward, model)
    cache = DynamicCache(config=model.config.get_text_config())
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = forward(**prompts, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(group_size)
    logits = output.logits[:, -1].repeat_interleave(group_size, 0)
    mask = mask.repeat_interleave(group_size, 0)
    position = positions[:, -1:].repeat_interleave(group_size, 0)

    final = torch.tensor(sorted(ends), device=mask.device)
    completions: list[list[int]] = [[] for _ in range(len(mask))]
    rows = torch.arange(len(mask), device=mask.device)  # the completion that each row of the batch belongs to
    goes_on = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(max_tokens):
        tokens = choose(logits, sampling)
        for completion, token, wanted in zip(rows.tolist(), tokens.tolist(), goes_on.tolist(), strict=True):
            if wanted:  # what a finished one says behind its end is nobody's answer
                completions[completion].append(token)
        goes_on &= torch.isin(tokens, final, invert=True)
        if not goes_on.any():
            break
        if 2 * int(goes_on.sum()) <= len(rows):  # moving the cache costs as much as a few tokens
            kept = goes_on.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            tokens, mask, position, rows, goes_on = (t[kept] for t in (tokens, mask, position, rows, goes_on))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        position = position + 1
        output = forward(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
    return completions
