"""How long a sample is: five pictures, the instruction, and the completion's limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from screening.answer import Answer, Mode, render
from screening.inference.generation import Tokenizer, prompt_text
from screening.prompt import PICTURES_PER_SAMPLE, Prompt, messages
from trainer.records import Sample
from trainer.training.plan.architectures import PlanError

PLACEHOLDER = "<IMG_CONTEXT>"
PICTURE_FRAME = 2
"""`<img>` and `</img>` around the tokens of a picture."""

CHARACTERS_PER_TOKEN = 3.5
"""Where no tokenizer is at hand. Qwen's vocabulary has 4.4 on the instruction in CoT mode and 3.9 on an answer, the
tiny one 4.1 on both; lower here, so that an estimate errs on the long side."""

CHAT_FRAME = 12
"""Tokens of ChatML around the one message and at the head of the answer, rounded up."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one question in CoT mode."""

    per_picture: int
    """Image tokens of one picture; one tile."""
    pictures: int
    """Image tokens of all five."""
    text: int
    """The rest of the prompt: instruction, names of the pictures, their frames, the chat's own tokens."""
    measured: bool
    """Counted with the model's tokenizer; else estimated from characters."""
    longest_answer: int | None = None
    """Of the data's reasoning with its answer, end token included; None without data that has any."""

    @property
    def prompt(self) -> int:
        return self.pictures + self.text


def count_tokens(
    prompt: Prompt, per_picture: int, tokenizer: Tokenizer | None, samples: Iterable[Sample] = ()
) -> Tokens:
    """Tokens of the question, and of the longest answer that SFT trains on.

    Raises:
        PlanError: the tokenizer's chat template does not write one placeholder per picture.
    """
    answers = [render(Answer(s.options, s.reasoning), Mode.COT) for s in samples if s.reasoning.strip()]
    longest = max((_count(answer, tokenizer) for answer in answers), default=None)
    return Tokens(
        per_picture=per_picture,
        pictures=PICTURES_PER_SAMPLE * per_picture,
        text=_prompt_text_tokens(prompt, tokenizer),
        measured=tokenizer is not None,
        longest_answer=None if longest is None else longest + 1,
    )


def load_tokenizer(directory: Path | None) -> Tokenizer | None:
    """The tokenizer of a model's directory; None if there is no directory or no tokenizer in it.

    Raises:
        PlanError: there is one, and it cannot be loaded.
    """
    if directory is None or not (directory / "tokenizer.json").is_file():
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers and transformers raise what they like on a damaged file
        raise PlanError(f"the tokenizer in {directory} cannot be loaded: {error}") from error
    loaded: Tokenizer = tokenizer
    return loaded


def _prompt_text_tokens(prompt: Prompt, tokenizer: Tokenizer | None) -> int:
    frames = PICTURES_PER_SAMPLE * PICTURE_FRAME
    if tokenizer is None:
        parts = messages(prompt, Mode.COT)[0]["content"]
        # Each part, text or picture, ends its line: one token more.
        return sum(_count(part.get("text", ""), None) + 1 for part in parts) + frames + CHAT_FRAME
    text = prompt_text(tokenizer, prompt, Mode.COT)
    if (found := text.count(PLACEHOLDER)) != PICTURES_PER_SAMPLE:
        raise PlanError(f"the model's chat template writes {found} {PLACEHOLDER}, not {PICTURES_PER_SAMPLE}")
    return _count(text, tokenizer) - PICTURES_PER_SAMPLE + frames


def _count(text: str, tokenizer: Tokenizer | None) -> int:
    if tokenizer is None:
        return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
    return len(tokenizer.encode(text, add_special_tokens=False))
