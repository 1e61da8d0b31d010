"""Compute the scores of a benchmark: pure functions from parsed answers to `scores.json` and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from screening.answer import Mode, Reason, Unreadable
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedData, Tokens
from trainer.metrics import Score
from trainer.research.benchmarks.answer import Read, right
from trainer.research.benchmarks.layouts import LAYOUTS
from trainer.research.benchmarks.questions import Part, Question
from trainer.runs.markdown import interval, number, table
from trainer.shares import Share, share


@dataclass(frozen=True, slots=True)
class Judged:
    """One question and the parsed answer of the model."""

    question: Question
    result: Read | Unreadable

    @property
    def right(self) -> bool:
        return right(self.result, self.question)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BenchmarkScores(_Record):
    """Accuracy: the percentage of correct answers. An unreadable answer is wrong."""

    confidence_level: float
    overall: Score
    subtasks: dict[str, Score]
    unreadable: Share
    unreadable_reasons: dict[Reason, int]
    tolerated: Share
    """Answers that are readable but do not have the requested form; see `trainer.research.benchmarks.answer`."""


class BenchmarkEvaluation(_Record):
    """The content of `scores.json`."""

    format: Literal[1] = 1
    created: str
    """Date and time in UTC, ISO 8601."""
    benchmark: str
    part: Part
    prompt: str
    """Version of the prompt texts; see `trainer.research.benchmarks.prompt`."""
    checkpoint: EvaluatedCheckpoint
    data: EvaluatedData
    mode: Mode
    scores: BenchmarkScores
    tokens: Tokens
    versions: dict[str, str]


def benchmark_scores(judged: Sequence[Judged], level: float = 0.95) -> BenchmarkScores:
    """Compute all scores of one evaluation."""
    unreadable = [one.result.reason for one in judged if isinstance(one.result, Unreadable)]
    tolerated = [one for one in judged if isinstance(one.result, Read) and not one.result.strict]
    names = sorted({one.question.subtask for one in judged})
    return BenchmarkScores(
        confidence_level=level,
        overall=_score(judged, level),
        subtasks={name: _score([one for one in judged if one.question.subtask == name], level) for name in names},
        unreadable=share(len(unreadable), len(judged), level),
        unreadable_reasons=dict(Counter(unreadable).most_common()),
        tolerated=share(len(tolerated), len(judged), level),
    )


def render(evaluation: BenchmarkEvaluation) -> str:
    """The report as Markdown; its tables are also aligned as plain text."""
    scores, data, checkpoint = evaluation.scores, evaluation.data, evaluation.checkpoint
    limited = f" (the first of {data.samples})" if data.evaluated < data.samples else ""
    rows = [("overall", scores.overall), *scores.subtasks.items()]
    others = [("unreadable", scores.unreadable), ("readable, not in the requested form", scores.tolerated)]
    reasons = ", ".join(f"{reason} {count}" for reason, count in scores.unreadable_reasons.items())
    parts = [
        f"# {LAYOUTS[evaluation.benchmark].title}, {evaluation.part}: {checkpoint.title}, {evaluation.mode}",
        f"{data.evaluated} questions{limited}, {scores.confidence_level:.0%} intervals (Wilson), "
        f"{evaluation.created}.\ncheckpoint {checkpoint.digest}\ndata {data.digest}",
        table(
            ["", "right %", "interval", "random %", "n"],
            [[name, *_cells(one.correct), number(one.baseline), str(one.correct.n)] for name, one in rows],
        ),
        table(["", "%", "interval", "n"], [[name, *_cells(one), str(one.n)] for name, one in others]),
        f"Reasons for unreadable answers: {reasons}." if reasons else "",
        f"Tokens per question: {evaluation.tokens.prompt:.0f} in, {evaluation.tokens.completion:.0f} out; "
        f"{evaluation.tokens.cut} outputs were cut at the limit.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _score(judged: Sequence[Judged], level: float) -> Score:
    return Score(correct=share(sum(one.right for one in judged), len(judged), level), baseline=_random(judged))


def _random(judged: Sequence[Judged]) -> float | None:
    """Percentage that random choice of an option gets right; it never gets an open question right."""
    if not judged:
        return None
    return 100 * fmean(1 / len(one.question.options) if one.question.options else 0.0 for one in judged)


def _cells(one: Share) -> tuple[str, str]:
    return number(one.percent), interval(one)
