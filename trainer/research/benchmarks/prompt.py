"""How a benchmark's question is put: its own text with the pictures where they stand, and one sentence of ours.

The paper does not print the prompts of its tables 8 to 10. One wording for all three benchmarks, in training and in
scoring, keeps the comparison between stages about the stages.
"""

from __future__ import annotations

from typing import Any

from screening.answer import Mode
from trainer.research.benchmarks.questions import PICTURE, Question

PROMPT_VERSION = "benchmark-1"
"""Changes with every change of a text; answers to different texts are not mixed in one evaluation."""

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
    """Chat messages with one image item per picture, in the form that chat templates of VLMs take."""
    content: list[dict[str, str]] = []
    for place, text in enumerate(question.text.split(PICTURE)):
        if place:
            content.append({"type": "image"})
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
    content.append({"type": "text", "text": (_CHOICE if question.options else _OPEN)[mode]})
    return [{"role": "user", "content": content}]


def target(question: Question) -> str:
    """What SFT teaches the model to answer, in Direct mode: the benchmarks publish no reasoning."""
    return question.answer
