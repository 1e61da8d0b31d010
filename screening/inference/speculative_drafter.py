"""Speculative decoding from habit: what the model will say next, guessed from what it said before.

Screening answers are formulaic: the same sentences come again about other products. The engine checks a whole guess in
one step and keeps what the model itself would have said (Leviathan et al. 2023, arXiv 2211.17192). Decoding greedily,
that is the same answer in a third of the steps, but for near ties, which turn on rounding. The guesses come from
earlier answers of the same engine, as in suffix decoding (Oliaro et al. 2024, arXiv 2411.04975), with a table of short
contexts in place of a tree: the library of that paper has to be compiled, and changes parts of vLLM when it is
imported. vLLM's own lookup searches one request's tokens only, where screening repeats itself little
(docs/experiments/2026-11-26-drafting.md has the figures).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

CONTEXTS = (4, 2)
"""Lengths in tokens of the contexts that are remembered; the longest that is known decides."""
REMEMBERED = 8
"""Continuations kept per context, the latest: after a swap of weights the table follows within as many answers."""
LIKELY = 0.3
"""A draft ends where the estimated probability that all of it is right falls below this."""
MAX_CONTEXTS = 50_000
"""Some tens of MB; the context that was met longest ago is forgotten first."""


class Habits:
    """What followed which tokens in text that was seen."""

    def __init__(self, ends: Collection[int] = (), max_contexts: int = MAX_CONTEXTS) -> None:
        """
        Args:
            ends: tokens that end an answer.
        """
        self._followers: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Per context its latest followers, oldest first. The contexts are in the order in which they were last met."""
        self._ends = ends
        self._max_contexts = max_contexts

    def learn(self, tokens: Sequence[int], new: int) -> None:
        """Remember the last `new` tokens as followers of what stands before each of them."""
        begin = max(1, len(tokens) - new)
        for end in range(begin, len(tokens)):
            if end > begin and tokens[end - 1] in self._ends:
                break  # a draft may have gone on behind it
            for length in CONTEXTS:
                if end >= length:
                    context = tuple(tokens[end - length : end])
                    followers = self._followers.pop(context, ())
                    self._followers[context] = (*followers[1 - REMEMBERED :], tokens[end])
        while len(self._followers) > self._max_contexts:
            del self._followers[next(iter(self._followers))]

    def draft(self, tokens: Sequence[int], room: int) -> list[int]:
        """At most `room` tokens that probably come next."""
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


class HabitDrafter:
    """`Habits` as vLLM's engine core calls it (`speculative_config` with the method `custom_class`)."""

    def __init__(self, vllm_config: Any) -> None:
        end: int | list[int] | None = getattr(vllm_config.model_config.hf_text_config, "eos_token_id", None)
        self._habits = Habits(ends=end if isinstance(end, list) else () if end is None else (end,))
        self._room: int = vllm_config.speculative_config.num_speculative_tokens

    def propose(
        self, sampled_token_ids: list[list[int]], num_tokens: Any, token_ids: Any, **_: object
    ) -> list[list[int]]:
        """One draft per request of the batch.

        Args:
            sampled_token_ids: of each request what this step brought; nothing while its prompt is still being read.
            num_tokens: (requests,), tokens of each with those.
            token_ids: (requests, longest), prompt and answer of each.
        """
        drafts = []
        for sampled, length, row in zip(sampled_token_ids, num_tokens, token_ids, strict=False):
            # The prompt's last tokens are contexts of the first ones of an answer.
            tokens = row[max(0, length - len(sampled) - max(CONTEXTS)) : length].tolist() if sampled else []
            self._habits.learn(tokens, len(sampled))
            drafts.append(self._habits.draft(tokens, self._room))
        return drafts

    def load_model(self, _model: object) -> None:
        """Nothing to load; vLLM's runner on a CPU asks every drafter to."""
