"""Packs a group into one row: the prompt once, followed by all completions, which do not see each other.

A group's G completions answer the same question about the same five pictures, and a prompt of five pictures is much
longer than an answer. Scored one by one, pictures and prompt pass through the model G times. Packed into one row, they
pass once:

    p p p … p | q a a a | q b b | q c c c c | …

p and q are the prompt. Its last token q is repeated before every completion, because a completion's first token is
predicted from it. A completion's token attends to the prompt and to the earlier tokens of its own completion, and its
position continues the prompt's. So each completion sees what it would see alone, and the log-probabilities are the same
up to rounding (a test compares them).

Most of the attention matrix of such a row would be masked, because completions do not see each other.
`group_attention` does not compute that part: the prompt attends to itself, and each completion to the prompt and
itself. Without a packed row it calls transformers' own attention. So it can stay a model's attention, also when
gradient checkpointing calls it again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

IGNORED = -100
"""Label of tokens that are not scored."""


@dataclass(frozen=True, slots=True)
class SharedPrompt:
    """Rows for Q groups of G completions of C tokens after prompts of P tokens; L = P - 1 + G (1 + C)."""

    ids: Tensor
    """(Q, L) token numbers."""
    positions: Tensor
    """(Q, L) positions, in which padding does not count."""
    prompt_sees: Tensor
    """(Q, 1, P - 1, P - 1), true if a prompt's token (third axis) attends to another (fourth axis)."""
    completion_sees: Tensor
    """(Q G, 1, 1 + C, P + C), true if a completion's token attends to a token of the prompt or completion."""
    labels: Tensor
    """(Q, L): the completions' tokens, and IGNORED elsewhere."""
    group_size: int
    completion_length: int

    def by_completion(self, values: Tensor) -> Tensor:
        """(Q, L - 1) values of the tokens after the first of each row → (Q G, C), in the order of the completions."""
        width = self.group_size * (1 + self.completion_length)
        return values[:, -width:].reshape(-1, 1 + self.completion_length)[:, 1:]


def share_prompt(ids: Tensor, mask: Tensor, completion_length: int, group_size: int) -> SharedPrompt:
    """Pack completions by their groups.

    Args:
        ids: (Q G, P + C) token numbers, group by group; prompts are padded on the left, completions on the right.
        mask: the same shape, 0 for padding and 1 elsewhere.
        completion_length: C.
        group_size: G.

    Raises:
        ValueError: the rows are not divisible into groups, or a group has several prompts.
    """
    if len(ids) % group_size:
        raise ValueError(f"{len(ids)} completions are not divisible into groups of {group_size}")
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

    there = real[:, None, None, :-1]
    causal = torch.ones(before, before, dtype=torch.bool, device=ids.device).tril()
    # Padding attends to itself, because softmax over an empty row would give NaN.
    prompt_sees = causal & there | torch.eye(before, dtype=torch.bool, device=ids.device)
    own = torch.ones(1 + completion_length, 1 + completion_length, dtype=torch.bool, device=ids.device).tril()
    completion_sees = torch.cat(
        [
            there.repeat_interleave(group_size, 0).expand(-1, -1, len(own), -1),
            own.expand(groups * group_size, 1, -1, -1),
        ],
        -1,
    )

    scored = completions.masked_fill(completion_masks == 0, IGNORED)
    ignored = scored.new_full((groups, group_size, 1), IGNORED)
    labels = torch.cat([ignored.new_full((groups, before), IGNORED), torch.cat([ignored, scored], 2).flatten(1)], 1)
    return SharedPrompt(packed, positions, prompt_sees, completion_sees, labels, group_size, completion_length)


GROUP_ATTENTION = "shared_prompt"
"""Name of `group_attention` among transformers' kinds of attention."""


def group_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prompt: SharedPrompt | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention over packed rows, with transformers' signature; `shared_prompt` comes from the arguments of the model.

    Args:
        query: (Q, H, L, D); `key` and `value` may have fewer heads.

    Returns:
        (Q, L, H, D), and None for the weights.
    """
    if shared_prompt is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    groups, heads, length, width = query.shape
    key, value = (t.repeat_interleave(heads // t.shape[1], 1) for t in (key, value))
    attend = partial(_attend, dropout=dropout, scale=scaling if scaling is not None else width**-0.5)
    size, before = shared_prompt.group_size, shared_prompt.prompt_sees.shape[-1]

    def by_completion(t: Tensor) -> Tensor:
        return t[:, :, before:].unflatten(2, (size, -1)).transpose(1, 2).flatten(0, 1)

    def with_prompt(t: Tensor) -> Tensor:
        return torch.cat([t[:, :, :before].repeat_interleave(size, 0), by_completion(t)], 2)

    head = slice(None), slice(None), slice(before)
    of_prompt = attend(query[head], key[head], value[head], shared_prompt.prompt_sees)
    of_completions = attend(by_completion(query), with_prompt(key), with_prompt(value), shared_prompt.completion_sees)
    answers = of_completions.unflatten(0, (groups, size)).transpose(1, 2).reshape(groups, heads, length - before, width)
    attended: Tensor = torch.cat([of_prompt, answers], 2).transpose(1, 2).contiguous()
    return attended, None


def _attend(query: Tensor, key: Tensor, value: Tensor, sees: Tensor, *, dropout: float, scale: float) -> Tensor:
    if query.is_cuda:
        return scaled_dot_product_attention(query, key, value, attn_mask=sees, dropout_p=dropout, scale=scale)
    # On a CPU, the backward pass of the fused kernel takes three to five times as long as these plain products.
    weights = ((query * scale) @ key.transpose(-1, -2)).masked_fill(~sees, -torch.inf).softmax(-1)
    return torch.dropout(weights, dropout, train=True) @ value


AttentionInterface.register(GROUP_ATTENTION, group_attention)
AttentionMaskInterface.register(GROUP_ATTENTION, sdpa_mask)


def once_per_group(values: Tensor, counts: Sequence[int], group_size: int) -> Tensor:
    """Keep the pictures (first axis) of each group's first completion.

    Args:
        counts: number of pictures, or of their tiles, per completion.
    """
    return torch.cat(values.split(list(counts))[::group_size])
