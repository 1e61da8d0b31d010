"""Log-probabilities of watched tokens from an engine with speculative decoding.

This belongs to `screening.inference.speculative_drafter` and is installed only when that is switched on. vLLM 0.32
supports `logprob_token_ids` in its `Sampler` only. An engine with a `speculative_config` uses its `RejectionSampler` at
every step, which returns the likeliest tokens (`logprobs`) at most, so the watched tokens would be missing from the
answer. `screening.confidence` needs them. Therefore a wrapper replaces that sampler inside vLLM's worker. This module
imports neither vllm nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any


class DraftedLogprobs:
    """vLLM's `RejectionSampler` with the same support for `logprob_token_ids` that its `Sampler` has."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def __call__(self, metadata: Any, draft_probs: Any, logits: Any, sampling_metadata: Any) -> Any:
        """
        Args:
            metadata: `SpecDecodeMetadata`.
            logits: (tokens, vocabulary); of each request those of its drafted tokens and of the one after them.
            sampling_metadata: `SamplingMetadata`; `logprob_token_ids` maps a request's place in the batch to tokens.

        Returns:
            `SamplerOutput`. Its log-probabilities have one row per request and token that may have been generated.
            `RejectionSampler.parse_output` drops the rows of rejected tokens.
        """
        watched = sampling_metadata.logprob_token_ids
        # With them, vLLM's sampler returns fewer columns than it expects.
        output = self._sampler(metadata, draft_probs, logits, replace(sampling_metadata, logprob_token_ids=None))
        if not watched:
            return output
        tokens = output.sampled_token_ids.clamp(min=0).long()
        requests, longest = tokens.shape
        ends = metadata.cu_num_sampled_tokens.unsqueeze(1)
        starts = ends.roll(1)
        starts[0] = 0
        rows = starts + starts.new_ones(longest).cumsum(0) - 1
        is_own = rows < ends
        rows = rows.clamp(max=len(logits) - 1)  # rows of other requests, which are dropped as well
        logprobs = self._sampler.sampler.compute_logprobs(logits)

        ids, is_known = _columns(watched, requests, tokens)
        ids = ids.repeat_interleave(longest, 0)
        ids[:, 0] = tokens.flatten()
        values = logprobs[rows.view(-1, 1), ids].masked_fill(~is_known.repeat_interleave(longest, 0), float("-inf"))
        generated = rows.new_zeros(len(logits)).long()
        generated[rows[is_own]] = tokens[is_own]
        ranks = (logprobs >= logprobs.gather(1, generated.unsqueeze(1))).sum(1)[rows.flatten()]
        # An empty object of vLLM's class, which cannot be imported here.
        tensors = self._sampler.sampler.gather_specific_token_logprobs(logprobs[:1], {0: []}, tokens[0, :1])
        tensors = tensors._replace(logprob_token_ids=ids.int(), logprobs=values, selected_token_ranks=ranks)
        return replace(output, logprobs_tensors=tensors)


def _columns(watched: Mapping[int, Sequence[int]], requests: int, like: Any) -> tuple[Any, Any]:
    """Return the token of each column, and whether the column is in use, both as (requests, columns).

    A request has one column for the generated token and one for each watched token. Another request may watch more.
    """
    widest = max(map(len, watched.values()))
    wanted = [list(watched.get(request, ())) for request in range(requests)]
    ids = like.new_tensor([[0, *tokens, *[0] * (widest - len(tokens))] for tokens in wanted])
    columns = like.new_ones(1 + widest).cumsum(0) - 1
    return ids, columns <= like.new_tensor([[len(tokens)] for tokens in wanted])
