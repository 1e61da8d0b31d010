"""Completions for a batch of questions: each prompt is read once, and G completions go on from there, side by side.

A group is one row, as in `shared_prompt`. At every step each of its completions adds one token to the row, at the same
position, and sees the prompt and its own tokens:

    p p p … p | a b c d | a b c d | a b …

So keys and values of a prompt lie in the cache once per group. With a row per completion, which is transformers'
`generate`, they lie there G times, and moving them from memory is what a step of a small model waits for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.training.hcm_grpo.preallocated_kv_cache import preallocated_kv_cache


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn: the k most probable, of these the fewest that hold a share p, by their probability."""

    temperature: float = 1.0
    top_k: int = 0
    """0 takes all."""
    top_p: float = 1.0


def choose(logits: Tensor, sampling: Sampling, never: Sequence[int] = ()) -> Tensor:
    """One token per row of (N, V) logits, (N,).

    Args:
        never: tokens that are not drawn.
    """
    if never:
        logits = logits.index_fill(-1, torch.tensor(never, device=logits.device), float("-inf"))
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
    never: Sequence[int] = (),
) -> list[list[int]]:
    """Sample a group of completions for every prompt.

    Args:
        model: an image-text-to-text model whose attention takes booleans for which token sees which (`sdpa`, or
            `group_attention`); its mode (train or eval) is left as it is.
        prompts: `input_ids` and `attention_mask`, (Q, P), padded on the left, and `pixel_values`.
        ends: tokens that end a completion.
        never: tokens that are not drawn.

    Returns:
        Q x group_size completions, group by group, each with the token that ended it, if one did.
    """
    mask = prompts["attention_mask"]
    # On a CPU past accelerate's autocast, which casts all weights for every token and so takes eight times as long.
    forward = model if mask.is_cuda else partial(type(model).forward, model)
    cache = preallocated_kv_cache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = forward(**prompts, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    logits = output.logits.expand(-1, group_size, -1)

    final = torch.tensor(sorted(ends), device=mask.device)
    completions: list[list[list[int]]] = [[[] for _ in range(group_size)] for _ in mask]
    rows = torch.arange(len(mask), device=mask.device)  # the question that each row of the batch belongs to
    goes_on = torch.ones(len(mask), group_size, dtype=torch.bool, device=mask.device)
    sees = mask.bool()[:, None, None].expand(-1, 1, group_size, -1)
    itself = torch.eye(group_size, dtype=torch.bool, device=mask.device).expand(len(mask), 1, -1, -1)
    position = positions[:, -1:].expand(-1, group_size)
    for _ in range(max_tokens):
        tokens = choose(logits.flatten(0, 1), sampling, never).view(-1, group_size)
        for row, group, wanted in zip(rows.tolist(), tokens.tolist(), goes_on.tolist(), strict=True):
            for completion, token, is_wanted in zip(completions[row], group, wanted, strict=True):
                if is_wanted:  # what a finished one says behind its end is nobody's answer
                    completion.append(token)
        goes_on &= torch.isin(tokens, final, invert=True)
        unfinished = goes_on.any(1)
        if not unfinished.any():
            break
        if 2 * int(unfinished.sum()) <= len(rows):  # moving the cache costs as much as a few tokens
            kept = unfinished.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            tokens, sees, itself, position, rows, goes_on = (
                t[kept] for t in (tokens, sees, itself, position, rows, goes_on)
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
