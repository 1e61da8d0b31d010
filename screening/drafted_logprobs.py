"""Log-probabilities of watched tokens, also of a step that checks a draft (`screening.drafter`).

vLLM 0.32 answers `logprob_token_ids` in steps of one token only. As soon as one request of a batch has a draft, another
sampler is asked, which knows only the likeliest tokens (`logprobs`), and the watched ones are missing from the answer.
`screening.confidence` needs just those, so that sampler is wrapped, inside vLLM's worker. Neither vllm nor torch is
imported for it.
"""

from __future__ import annotations

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
        longest = tokens.shape[1]
        starts = metadata.cu_num_sampled_tokens.roll(1)
        starts[0] = 0
        places = starts.unsqueeze(1) + starts.new_ones(longest).cumsum(0) - 1
        # A place behind a request's last token is another's, or none; what stands there is dropped as well.
        places = places.flatten().clamp(max=logits.shape[0] - 1)
        sampler = self._sampler.sampler
        logprobs = sampler.compute_logprobs(logits[places])
        # Its own way loops over rows in Python, and there are hundreds. So it is asked about one row per request, and
        # what it found, except for the values, holds for the request's other rows as well.
        one = sampler.gather_specific_token_logprobs(logprobs[::longest], watched, tokens[:, 0])
        ids = one.logprob_token_ids.repeat_interleave(longest, 0).long()
        ids[:, 0] = tokens.flatten()
        no_id = one.logprobs.isneginf().repeat_interleave(longest, 0)
        no_id[:, 0] = False
        values = logprobs.gather(-1, ids).masked_fill(no_id, float("-inf"))
        ranks = (logprobs >= values[:, :1]).sum(-1)
        tensors = one._replace(logprob_token_ids=ids.int(), logprobs=values, selected_token_ranks=ranks)
        return replace(output, logprobs_tensors=tensors)


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`)."""

    model_runner: Any

    def watch_drafts(self) -> None:
        """To be called once, before the first request."""
        runner = self.model_runner
        runner.rejection_sampler = DraftedLogprobs(runner.rejection_sampler)
