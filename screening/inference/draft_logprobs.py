"""Log-probabilities of watched tokens from an engine that checks drafts (`screening.inference.speculative_drafter`).

vLLM 0.32 heeds `logprob_token_ids` in its `Sampler` only. An engine with a `speculative_config` asks its
`RejectionSampler` instead, at every step, which knows the likeliest tokens (`logprobs`) at most: the watched ones would
be missing from the answer. `screening.confidence` needs just those, so that sampler is wrapped, inside vLLM's worker.
Neither vllm nor torch is imported for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any


class DraftedLogprobs:
    """vLLM's `RejectionSampler`, with `logprob_token_ids` heeded as its `Sampler` does."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def __call__(self, metadata: Any, draft_probs: Any, logits: Any, sampling_metadata: Any) -> Any:
        """
        Args:
            metadata: `SpecDecodeMetadata`.
            logits: (tokens, vocabulary), of each request those of its drafted tokens and of the one behind them.
            sampling_metadata: `SamplingMetadata`; `logprob_token_ids` maps a request's place in the batch to tokens.

        Returns:
            `SamplerOutput`; its log-probabilities have one row per request and token that can have been generated, the
            rejected ones too, which `RejectionSampler.parse_output` drops.
        """
        watched = sampling_metadata.logprob_token_ids
        # With them its own sampler gives fewer columns than it expects.
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
        rows = rows.clamp(max=len(logits) - 1)  # beyond its own ones stands anything: it is dropped as well
        logprobs = self._sampler.sampler.compute_logprobs(logits)

        ids, is_known = _columns(watched, requests, tokens)
        ids = ids.repeat_interleave(longest, 0)
        ids[:, 0] = tokens.flatten()
        values = logprobs[rows.view(-1, 1), ids].masked_fill(~is_known.repeat_interleave(longest, 0), float("-inf"))
        generated = rows.new_zeros(len(logits)).long()
        generated[rows[is_own]] = tokens[is_own]
        ranks = (logprobs >= logprobs.gather(1, generated.unsqueeze(1))).sum(1)[rows.flatten()]
        # An empty one of its own kind, to be filled: the class cannot be named here.
        tensors = self._sampler.sampler.gather_specific_token_logprobs(logprobs[:1], {0: []}, tokens[0, :1])
        tensors = tensors._replace(logprob_token_ids=ids.int(), logprobs=values, selected_token_ranks=ranks)
        return replace(output, logprobs_tensors=tensors)


def _columns(watched: Mapping[int, Sequence[int]], requests: int, like: Any) -> tuple[Any, Any]:
    """Per request a column for the generated token and one for each watched token, (requests, columns): which token,
    and whether there is one, because another request may watch more."""
    widest = max(map(len, watched.values()))
    wanted = [list(watched.get(request, ())) for request in range(requests)]
    ids = like.new_tensor([[0, *tokens, *[0] * (widest - len(tokens))] for tokens in wanted])
    columns = like.new_ones(1 + widest).cumsum(0) - 1
    return ids, columns <= like.new_tensor([[len(tokens)] for tokens in wanted])
