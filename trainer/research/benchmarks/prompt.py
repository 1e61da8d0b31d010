"""The prompt for a benchmark's question: its own text with the pictures in place, and one instruction of ours.

The paper does not print the prompts of its tables 8 to 10. All three benchmarks use one wording, in training and in
scoring, so that differences between stages do not come from the prompt.
"""

from __future__ import annotations

from typing import Any

from screening.answer import Mode
from trainer.research.benchmarks.questions import PICTURE, Question

PROMPT_VERSION = "benchmark-1"
"""Version of the texts, to be changed with them, so that one evaluation never mixes answers to different texts."""

_CHOICE = {
    Mode.DIRECT: "Answer with the letter of the right option and nothing else.",
    Mode.COT: "Think first, then answer with the letter of the right option. Write exactly "
    "<think>…</think><answer>X</answer>, where X is the letter.",
}
_OPEN = {
    Mode.DIRECT: "Answer with a single word or number and nothing else.",
    Mode.COT: "Think first, then answer with a single word or number. Write exactly "
    "<think>…</think><answer>X</answer>, where X is the word or number.",
}


def messages(question: Question, mode: Mode) -> list[dict[str, Any]]:
    """Chat messages with one image item per picture, in the form for chat templates of vision-language models."""
    content: list[dict[str, str]] = []
    for place, text in enumerate(question.text.split(PICTURE)):
        if place:
            content.append({"type": "image"})
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
    content.append({"type": "text", "text": (_CHOICE if question.options else _OPEN)[mode]})
    return [{"role": "user", "content": content}]


def target(question: Question) -> str:
    """The target of SFT, which is the bare answer (Direct mode), because the benchmarks publish no reasoning."""
    return question.answer
