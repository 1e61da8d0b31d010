"""The drafts: tokens that followed before, if they are likely, within bounds."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from screening.inference.speculative_drafter import MAX_CONTEXTS, REMEMBERED, AnswerDrafter, ContextTable

SENTENCE = [*range(100, 120)]


def learned(*texts: list[int]) -> ContextTable:
    table = ContextTable()
    for text in texts:
        table.learn(text, len(text))
    return table


def test_an_answer_that_was_seen_once_is_drafted_from_its_beginning() -> None:
    table = learned(SENTENCE)
    assert table.draft(SENTENCE[:4], 50) == SENTENCE[4:]
    assert table.draft(SENTENCE[:4], 3) == SENTENCE[4:7]
    assert table.draft([1, 2, 3, *SENTENCE[:2]], 50) == SENTENCE[2:], "two known tokens are enough"


def test_unknown_text_is_not_drafted() -> None:
    table = learned(SENTENCE)
    assert table.draft([1, 2, 3, 4], 50) == []
    assert table.draft([], 50) == [] and table.draft(SENTENCE[:1], 50) == []
    assert table.draft(SENTENCE[:4], 0) == [] and table.draft(SENTENCE[:4], -2) == []


def test_the_longer_context_decides() -> None:
    table = learned([1, 2, 7, 8, 50], [3, 4, 7, 8, 60], [3, 4, 7, 8, 60])
    assert table.draft([1, 2, 7, 8], 1) == [50]
    assert table.draft([9, 9, 7, 8], 1) == [60]


def test_a_guess_ends_where_it_becomes_unlikely() -> None:
    # After 1 2 3 4, and again after four 9, each of three tokens follows in a third of the cases: both in a ninth.
    table = learned(*([1, 2, 3, 4, each, 9, 9, 9, 9, each] for each in (5, 6, 7)))
    assert table.draft([1, 2, 3, 4], 10) == [5, 9, 9, 9, 9]
    assert learned(*([1, 2, 3, 4, each] for each in (5, 6, 7, 8))).draft([1, 2, 3, 4], 10) == []


def test_table_change_with_the_weights() -> None:
    table = learned(*([1, 2, 3, 4, 5] for _ in range(1000)))
    for times in range(REMEMBERED):
        assert table.draft([1, 2, 3, 4], 1) == [5] or times > REMEMBERED // 2
        table.learn([1, 2, 3, 4, 6], 1)
    assert table.draft([1, 2, 3, 4], 1) == [6]


def test_only_new_tokens_are_learned_and_the_prompt_before_them_is_context() -> None:
    table = ContextTable()
    table.learn([1, 2, 3, 4, 5, 6], 2)
    assert table.draft([1, 2, 3, 4], 9) == [5, 6]
    assert table.draft([1, 2], 9) == [] and table.draft([2, 3], 9) == []


def test_memory_is_bounded_and_recent_text_stays() -> None:
    assert ContextTable()._max_contexts == MAX_CONTEXTS
    table = ContextTable(max_contexts=100)
    chance = random.Random(1)
    for _ in range(200):
        table.learn(SENTENCE, len(SENTENCE))
        table.learn([chance.randrange(10**6) for _ in range(8)], 8)
        assert len(table._followers) <= 100
    assert table.draft(SENTENCE[:4], 50) == SENTENCE[4:]


def test_nothing_is_learned_or_drafted_after_the_end() -> None:
    table = ContextTable(ends=(2,))
    for _ in range(3):
        table.learn([1, 3, 4, 5, 6, 2, 7, 8], 6)
    assert table.draft([1, 3, 4, 5], 9) == [6, 2]
    assert table.draft([4, 5, 6, 2], 9) == [] and table.draft([5, 6, 2, 7], 9) == []
    table.learn([5, 6, 2, 9, 9], 2)  # a later question of a conversation
    assert table.draft([6, 2, 9], 9) == [9]


def drafter(most: int = 5, end: int | list[int] | None = 2) -> AnswerDrafter:
    return AnswerDrafter(
        SimpleNamespace(
            speculative_config=SimpleNamespace(num_speculative_tokens=most),
            model_config=SimpleNamespace(hf_text_config=SimpleNamespace(eos_token_id=end)),
        )
    )


def batch(*rows: list[int], room: int = 64) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((8, room), np.int32)  # more rows than requests, as in vLLM
    for place, row in zip(tokens, rows, strict=False):
        place[: len(row)] = row
    return np.array([len(row) for row in rows] + [0] * (8 - len(rows)), np.int32), tokens


def test_vllm_gets_one_draft_per_request() -> None:
    ours, prompt = drafter(), [*range(1, 30)]
    lengths, tokens = batch([*prompt, *SENTENCE], [*prompt, 100])
    drafts = ours.propose([SENTENCE, [100]], lengths, tokens, slot_mappings=None)
    assert drafts == [[], SENTENCE[1:6]], "the prompt's end and one token of the answer are a known context"
    assert all(type(token) is int for token in drafts[1]), "they are sent to another process"


def test_a_prompt_that_is_still_read_gets_no_draft() -> None:
    ours = drafter()
    lengths, tokens = batch([*range(1, 30), *SENTENCE], [*range(1, 30)])
    assert ours.propose([SENTENCE, []], lengths, tokens)[1] == []


@pytest.mark.parametrize("end", [2, [1, 2], None])
def test_an_answer_ends_where_the_model_says(end) -> None:
    ours = drafter(end=end)
    said = [*SENTENCE[:6], 2, 50, 51]
    lengths, tokens = batch([*range(20, 30), *said], [*SENTENCE[:4]])
    assert ours.propose([said, SENTENCE[3:4]], lengths, tokens)[1] == [104, 105, 2, *([50, 51] if end is None else [])]
