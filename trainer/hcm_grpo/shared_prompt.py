"""One row per group: the prompt once, and behind it all completions, each blind to the others.

A group's G completions answer the same question about the same five pictures, and a prompt of five pictures is much
longer than an answer. Scored one by one, pictures and prompt go through the model G times. Packed into one row they go
through once:

    p p p … p | q a a a | q b b | q c c c c | …

p and q are the prompt; its last token q is repeated before every completion, because it is what a completion's first
token is predicted from. A token attends to the prompt and, in its own completion, to what stands before it; its
position counts from the prompt's end. So each completion sees what it would see alone, and the log-probabilities are
the same up to rounding (a test compares them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""Label of what is not scored."""


@dataclass(frozen=True, slots=True)
class SharedPrompt:
    """Rows for Q groups of G completions of C tokens behind prompts of P; L = P - 1 + G (1 + C)."""

    ids: Tensor
    """(Q, L) token numbers."""
    positions: Tensor
    """(Q, L), without padding."""
    sees: Tensor
    """(Q, 1, L, L), true where a row's token (third axis) attends to another (fourth)."""
    labels: Tensor
    """(Q, L): the completions' own tokens, IGNORED elsewhere."""
    group_size: int
    completion_length: int

    def by_completion(self, values: Tensor) -> Tensor:
        """(Q, L - 1) values of the tokens after the first of each row → (Q G, C), in the order of the completions."""
        width = self.group_size * (1 + self.completion_length)
        return values[:, -width:].reshape(-1, 1 + self.completion_length)[:, 1:]


def share_prompt(ids: Tensor, mask: Tensor, completion_length: int, group_size: int) -> SharedPrompt:
    """Pack completions by their groups.

    Args:
        ids: (Q G, P + C), prompts padded on the left, completions on the right, groups one after the other.
        mask: the same shape, 1 for what is not padding.
        completion_length: C.
        group_size: G.

    Raises:
        ValueError: the rows are not whole groups with one prompt each.
    """
    if len(ids) % group_size:
        raise ValueError(f"{len(ids)} completions are not groups of {group_size}")
    by_group = ids.view(-1, group_size, ids.shape[1]), mask.view(-1, group_size, ids.shape[1])
    (prompts, completions), (prompt_masks, completion_masks) = (
        t.tensor_split([-completion_length], 2) for t in by_group
    )
    prompt, real = prompts[:, 0], prompt_masks[:, 0].bool()
    if not (prompts == prompt[:, None]).all():
        raise ValueError("the completions of a group have different prompts")

    groups, before = len(prompt), prompt.shape[1] - 1
    last = prompt[:, -1:, None].expand(-1, group_size, 1)
    packed = torch.cat([prompt[:, :-1], torch.cat([last, completions], 2).flatten(1)], 1)

    length = real.sum(1, keepdim=True)
    in_prompt = (real.cumsum(1) - 1).clamp(min=0)[:, :-1]
    steps = torch.arange(1 + completion_length, device=ids.device).repeat(group_size)
    positions = torch.cat([in_prompt, length - 1 + steps], 1)

    owner = torch.arange(1, group_size + 1, device=ids.device).repeat_interleave(1 + completion_length)
    owner = torch.cat([owner.new_zeros(before), owner])  # 0 is the prompt
    there = torch.cat([real[:, :-1], real.new_ones(groups, len(owner) - before)], 1)
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool, device=ids.device).tril()
    shared = causal & ((owner == 0)[None] | (owner[:, None] == owner[None]))
    # Padding sees itself, so that no row of the attention is empty.
    sees = (shared & there[:, None]) | torch.eye(len(owner), dtype=torch.bool, device=ids.device)

    scored = completions.masked_fill(completion_masks == 0, IGNORED)
    ignored = scored.new_full((groups, group_size, 1), IGNORED)
    labels = torch.cat([ignored.new_full((groups, before), IGNORED), torch.cat([ignored, scored], 2).flatten(1)], 1)
    return SharedPrompt(packed, positions, sees[:, None], labels, group_size, completion_length)


def attention_bias(sees: Tensor, attention: str) -> Tensor:
    """What transformers' attention wants as a mask: booleans for `sdpa`, numbers to add for `eager`."""
    if attention == "sdpa":
        return sees
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, lowest)


def once_per_group(values: Tensor, counts: Sequence[int], group_size: int) -> Tensor:
    """Pictures (first axis) of each group's first completion, out of those of all completions.

    Args:
        counts: how many pictures, or tiles of pictures, each completion has.
    """
    return torch.cat(values.split(list(counts))[::group_size])
