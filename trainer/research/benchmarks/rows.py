"""Convert questions to rows for TRL's trainers; `trainer.training.sft.rows.dataset` then loads their pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from screening.answer import Mode
from trainer.research.benchmarks.prompt import messages, target
from trainer.research.benchmarks.questions import Question


def answer_rows(questions: Iterable[Question]) -> list[dict[str, Any]]:
    """One row per question with its answer, for SFT in Direct mode."""
    return [
        {
            "prompt": messages(question, Mode.DIRECT),
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": target(question)}]}],
            "files": list(question.files),
        }
        for question in questions
    ]


def rollout_rows(questions: Iterable[Question], mode: Mode) -> list[dict[str, Any]]:
    """One row per question without its answer, for stage 2; the rewards find the answer by `id`."""
    return [
        {"prompt": messages(question, mode), "id": question.id, "files": list(question.files)} for question in questions
    ]
