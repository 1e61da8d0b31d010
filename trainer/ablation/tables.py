"""Scores as the paper's tables 5 to 7, as far as they are there, with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.ablation.tasks import Ablation
from trainer.ablation.variants import COLD_STARTS, START_SCORES, of_table
from trainer.compare.paired import Paired, paired
from trainer.evaluate.predictions import read_predictions
from trainer.evaluate.report import table
from trainer.evaluate.result import SCORES_NAME, read_evaluation

OPEN = "-"
"""What has not been scored yet."""


def tables(ablation: Ablation) -> str:
    """Markdown. Rows whose evaluation is not there are shown as open.

    Raises:
        EvaluationError: an evaluation is damaged.
    """
    return "\n\n".join(_parts(ablation)) + "\n"


def _parts(ablation: Ablation) -> Iterator[str]:
    yield f"# Ablation of {ablation.recipe}"
    yield (
        "Scores in percent with 95 % intervals (Wilson), CoT, on the test data. Differences are in points, over the "
        "same samples, with their interval and the p-value of McNemar's exact test."
    )
    if 5 in ablation.tables:
        rows = [
            [title, *_score(ablation.scores(name)), f"{small:.2f} / {large:.2f}"]
            for name, (title, small, large) in COLD_STARTS.items()
        ]
        yield "## Cold start (table 5)"
        yield table(["cold start", "score", "unreadable", "paper, 1B / 2B"], rows)
    start = ablation.scores(ablation.start)
    for number, what in ((6, "Stage 2"), (7, "The last epochs")):
        for seed in (ablation.seeds if number == 6 else ablation.seeds[:1]) if number in ablation.tables else ():
            rows = [["start", *_score(start), "", START_SCORES[number]]]
            plain = ablation.scores("grpo" if number == 6 else "dpa-grpo", seed)
            for name, variant in of_table(number):
                scores = ablation.scores(name, seed)
                rows.append([variant.title, *_score(scores), _difference(start, scores), variant.paper[number]])
                if scores != plain:
                    rows[-1][3] += f"; {_difference(plain, scores)}"
            yield f"## {what} (table {number}), seed {seed}"
            header = ["stage 2", "score", "unreadable", f"to the start; to {'GRPO' if number == 6 else 'all'}"]
            yield table([*header, "paper, 1B / 2B" if number == 6 else "paper, 2B"], rows)


def _score(directory: Path) -> list[str]:
    if not (directory / SCORES_NAME).exists():
        return [OPEN, OPEN]
    scores = read_evaluation(directory).scores
    correct, unreadable = scores.overall.correct, scores.unreadable
    return [f"{correct.percent:.1f} ({correct.low:.1f} to {correct.high:.1f})", f"{unreadable.percent:.1f}"]


def _difference(before: Path, after: Path) -> str:
    found = _paired(before, after)
    if found is None or found.difference is None:
        return OPEN
    return f"{found.difference:+.1f} ({found.low:+.1f} to {found.high:+.1f}), p {found.p_value:.3g}"


def _paired(before: Path, after: Path) -> Paired | None:
    if not all((directory / SCORES_NAME).exists() for directory in (before, after)):
        return None
    first, second = read_predictions(before), read_predictions(after)
    return paired((first[name].correct, second[name].correct) for name in first if name in second)
