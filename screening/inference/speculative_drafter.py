"""Speed-up for CPUs: speculative decoding with drafts from earlier answers. Switch: `SCREENING_DRAFT_TOKENS`.

Ratio: 541 ms per answer without drafts, 192 to 216 ms with them, one request after the other; 76 to 83 ms and 54 to
60 ms with 32 at a time (docs/experiments/2026-11-26-drafting.md). The switch is off (0) by default on a GPU.

Screening answers are formulaic: the same sentences occur again for other products. The engine checks a whole draft in
one step and keeps the tokens that the model itself would have generated (Leviathan et al. 2023, arXiv 2211.17192). With
greedy decoding the answer is the same, except for near ties, which depend on rounding. The drafts come from earlier
answers of the same engine, as in suffix decoding (Oliaro et al. 2024, arXiv 2411.04975), with a table of short contexts
in place of a tree. The library of that paper must be compiled, and changes parts of vLLM when it is imported. vLLM's
own prompt lookup searches the tokens of one request only, and a screening answer repeats itself little.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

CONTEXTS = (4, 2)
"""Lengths of the remembered contexts in tokens. The longest known context decides."""
REMEMBERED = 8
"""Number of latest continuations kept per context. After a swap the table adapts within as many answers."""
LIKELY = 0.3
"""Minimum estimated probability that a whole draft is right. A draft ends before it falls below this."""
MAX_CONTEXTS = 50_000
"""Maximum number of contexts, some tens of MB. The context that occurred longest ago is forgotten first."""


class ContextTable:
    """Which tokens followed which contexts in earlier answers."""

    def __init__(self, ends: Collection[int] = (), max_contexts: int = MAX_CONTEXTS) -> None:
        """
        Args:
            ends: tokens that end an answer.
        """
        self._followers: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Context → its latest followers, the oldest first. The contexts are ordered by their last occurrence."""
        self._ends = ends
        self._max_contexts = max_contexts

    def learn(self, tokens: Sequence[int], new: int) -> None:
        """Remember each of the last `new` tokens as a follower of the tokens before it."""
        begin = max(1, len(tokens) - new)
        for end in range(begin, len(tokens)):
            if end > begin and tokens[end - 1] in self._ends:
                break  # A draft may have continued after the end.
            for length in CONTEXTS:
                if end >= length:
                    context = tuple(tokens[end - length : end])
                    followers = self._followers.pop(context, ())
                    self._followers[context] = (*followers[1 - REMEMBERED :], tokens[end])
        while len(self._followers) > self._max_contexts:
            del self._followers[next(iter(self._followers))]

    def draft(self, tokens: Sequence[int], room: int) -> list[int]:
        """Return at most `room` tokens that probably come next."""
        window, drafted, probability = list(tokens[-max(CONTEXTS) :]), list[int](), 1.0
        while len(drafted) < room and (followers := self._after(window)) and window[-1] not in self._ends:
            likeliest = max(followers, key=followers.count)
            probability *= followers.count(likeliest) / len(followers)
            if probability < LIKELY:
                break
            drafted.append(likeliest)
            window = [*window[1:], likeliest]
        return drafted

    def _after(self, window: Sequence[int]) -> tuple[int, ...]:
        for length in CONTEXTS:
            if followers := self._followers.get(tuple(window[-length:])):
                return followers
        return ()


class AnswerDrafter:
    """The drafter that vLLM's engine core calls (`speculative_config` with the method `custom_class`)."""

    def __init__(self, vllm_config: Any) -> None:
        end: int | list[int] | None = getattr(vllm_config.model_config.hf_text_config, "eos_token_id", None)
        self._table = ContextTable(ends=end if isinstance(end, list) else () if end is None else (end,))
        self._room: int = vllm_config.speculative_config.num_speculative_tokens

    def propose(
        self, sampled_token_ids: list[list[int]], num_tokens: Any, token_ids: Any, **_: object
    ) -> list[list[int]]:
        """Return one draft per request of the batch.

        Args:
            sampled_token_ids: the new tokens of each request; empty while its prompt is still being read.
            num_tokens: (requests,), number of tokens of each request, the new ones included.
            token_ids: (requests, longest), prompt and answer of each request.
        """
        drafts = []
        for sampled, length, row in zip(sampled_token_ids, num_tokens, token_ids, strict=False):
            # The prompt's last tokens are contexts of the answer's first tokens.
            tokens = row[max(0, length - len(sampled) - max(CONTEXTS)) : length].tolist() if sampled else []
            self._table.learn(tokens, len(sampled))
            drafts.append(self._table.draft(tokens, self._room))
        return drafts

    def load_model(self, _model: object) -> None:
        """Do nothing. vLLM's runner on a CPU calls this for every drafter."""
