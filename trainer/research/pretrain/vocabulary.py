"""Texts for the tokenizer in addition to the sentences of the pool."""

from __future__ import annotations

from collections.abc import Iterator

from screening.answer import Finding, compose
from screening.prompt import Prompt
from screening.task import NORMAL, Dimension
from trainer.data.render.words import NORMAL_COMMENT
from trainer.training.instructions import DESCRIBE, DESCRIBE_ALL

REPEATS = 20_000
"""Number of repetitions, because BPE merges frequent pairs first, and the words of every answer must be among them."""


def fixed_texts(prompt: Prompt) -> Iterator[str]:
    """Prompts, the fixed words of answers, and verdict words, without the tags, which are separate tokens."""
    frame = compose(
        frozenset("A"),
        (
            Finding("A", frozenset(), NORMAL_COMMENT),
            Finding("B", frozenset(Dimension), "it changed and it changed"),
        ),
        opening="The original is",
    )
    assert frame.reasoning is not None
    verdicts = " ".join((NORMAL, *(dimension.short for dimension in Dimension)))
    for _ in range(REPEATS):
        yield from (prompt.cot, prompt.direct, DESCRIBE, DESCRIBE_ALL)
        yield from ("Original:", "user\n", "assistant\n")
        yield frame.reasoning.replace("<A>", "").replace("<B>", "")
        yield f" {verdicts}"
