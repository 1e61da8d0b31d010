"""Counts the tokens of a sample: five pictures, the instruction, and the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from screening.answer import Answer, Mode, render
from screening.inference.generation import Tokenizer, prompt_text
from screening.prompt import PICTURES_PER_SAMPLE, Prompt, locating, messages
from trainer.records import Sample
from trainer.training.plan.architectures import PlanError

PLACEHOLDER = "<IMG_CONTEXT>"
PICTURE_FRAME = 2
"""Number of tokens around a picture: `<img>` and `</img>`."""

CHARACTERS_PER_TOKEN = 3.5
"""Estimate for models without a local tokenizer. Qwen's tokenizer has 4.4 characters per token on the CoT instruction
and 3.9 on an answer, and the tiny one 4.1 on both. The value is lower, so that lengths are rather overestimated."""

CHAT_FRAME = 12
"""Tokens of ChatML around the message and before the answer, rounded up."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one question, in CoT mode unless a field says otherwise."""

    per_picture: int
    """Maximum number of image tokens of one picture, in all its tiles."""
    pictures: int
    """Image tokens of all five pictures."""
    text: int
    """Other tokens of the prompt: instruction, names and frames of the pictures, and chat template."""
    asking_for_places: int
    """Further tokens of the prompt if it asks where the issues are."""
    text_direct: int
    """As `text`, in Direct mode."""
    measured: bool
    """Whether tokens were counted with the model's tokenizer, and not estimated from characters."""
    longest_answer: int | None = None
    """Tokens of the data's longest reasoning with its answer, end token included; None if the data has no reasoning."""

    @property
    def prompt(self) -> int:
        return self.pictures + self.text

    @property
    def locating_prompt(self) -> int:
        """Tokens of the question that also asks where the issues are."""
        return self.prompt + self.asking_for_places

    def question(self, mode: Mode, locate: bool = False) -> int:
        """Tokens of the question in a mode."""
        if mode is Mode.DIRECT:
            return self.pictures + self.text_direct
        return self.locating_prompt if locate else self.prompt


def count_tokens(
    prompt: Prompt, per_picture: int, tokenizer: Tokenizer | None, samples: Iterable[Sample] = ()
) -> Tokens:
    """Count the tokens of the question, and of the longest answer in SFT.

    Raises:
        PlanError: the tokenizer's chat template does not write one placeholder per picture.
    """
    answers = [render(Answer(s.options, s.reasoning), Mode.COT) for s in samples if s.reasoning.strip()]
    longest = max((_count(answer, tokenizer) for answer in answers), default=None)
    text = _prompt_text_tokens(prompt, tokenizer)
    return Tokens(
        per_picture=per_picture,
        pictures=PICTURES_PER_SAMPLE * per_picture,
        text=text,
        asking_for_places=_prompt_text_tokens(locating(prompt), tokenizer, locate=True) - text,
        text_direct=_prompt_text_tokens(prompt, tokenizer, Mode.DIRECT),
        measured=tokenizer is not None,
        longest_answer=None if longest is None else longest + 1,
    )


def load_tokenizer(directory: Path | None) -> Tokenizer | None:
    """Load the tokenizer of a model's directory; None without a directory or without a tokenizer in it.

    Raises:
        PlanError: the tokenizer cannot be loaded.
    """
    if directory is None or not (directory / "tokenizer.json").is_file():
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers and transformers raise many kinds of errors on a damaged file
        raise PlanError(f"the tokenizer in {directory} cannot be loaded: {error}") from error
    loaded: Tokenizer = tokenizer
    return loaded


def _prompt_text_tokens(
    prompt: Prompt, tokenizer: Tokenizer | None, mode: Mode = Mode.COT, locate: bool = False
) -> int:
    frames = PICTURES_PER_SAMPLE * PICTURE_FRAME
    if tokenizer is None:
        parts = messages(prompt, mode, locate)[0]["content"]
        # Each part, text or picture, ends with a line break of one token.
        return sum(_count(part.get("text", ""), None) + 1 for part in parts) + frames + CHAT_FRAME
    text = prompt_text(tokenizer, prompt, mode, locate)
    if (found := text.count(PLACEHOLDER)) != PICTURES_PER_SAMPLE:
        raise PlanError(f"the model's chat template writes {found} {PLACEHOLDER}, not {PICTURES_PER_SAMPLE}")
    return _count(text, tokenizer) - PICTURES_PER_SAMPLE + frames


def _count(text: str, tokenizer: Tokenizer | None) -> int:
    if tokenizer is None:
        return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
    return len(tokenizer.encode(text, add_special_tokens=False))
