"""The reward of stage 2 on a benchmark: r = r_fmt + r_acc (paper, eq. 6), for questions with one correct answer.

r_fmt is 1 for the requested form: `<think>…</think><answer>…</answer>` in CoT mode, the bare answer in Direct mode.
r_acc is 1 for the correct answer, else 0: for labels of one letter, DPA (eq. 7) is the exact match, as the paper says
about these benchmarks. An answer that is only readable with tolerance earns r_acc but not r_fmt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from screening.answer import Mode
from trainer.research.benchmarks.answer import Read, read, right
from trainer.research.benchmarks.questions import Question
from trainer.reward import Completion, RewardFunction, completion_text, score_format


def score_form(text: str, question: Question, mode: Mode) -> float:
    """r_fmt, 0 or 1."""
    if mode is Mode.COT:
        return score_format(text)
    result = read(text, question, mode)
    return float(isinstance(result, Read) and result.strict)


def score_answer(text: str, question: Question, mode: Mode) -> float:
    """r_acc, 0 or 1."""
    return float(right(read(text, question, mode), question))


def reward_functions(questions: Mapping[str, Question], mode: Mode) -> list[RewardFunction]:
    """The `reward_funcs` for GRPOTrainer. There are two, so that each is logged; TRL adds them.

    Args:
        questions: questions by the id in the data set's column `id`.
    """

    def format_reward(completions: Sequence[Completion], id: Sequence[str], **_: Any) -> list[float]:  # noqa: A002 - a column
        return [score_form(completion_text(c), questions[i], mode) for c, i in zip(completions, id, strict=True)]

    def answer_reward(completions: Sequence[Completion], id: Sequence[str], **_: Any) -> list[float]:  # noqa: A002 - a column
        return [score_answer(completion_text(c), questions[i], mode) for c, i in zip(completions, id, strict=True)]

    return [format_reward, answer_reward]
