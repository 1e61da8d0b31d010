"""Write the available scores as the paper's tables 4 to 7, with intervals and paired tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from trainer.data_directory import read_samples
from trainer.evaluation.compare.paired import Paired, paired
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.predictions import read_predictions
from trainer.evaluation.evaluate.result import SCORES_NAME, read_evaluation
from trainer.research.ablation.tasks import Ablation
from trainer.research.ablation.threshold import best
from trainer.research.ablation.variants import COLD_STARTS, NO_COLD_START, of_table, paper_start
from trainer.runs.markdown import table

OPEN = "-"
"""Cell of a missing score."""
_SCORE = ("score", "unreadable", "best threshold: score; DPA")
"""Columns of `_score`."""
_MODES = {Mode.COT: "CoT", Mode.DIRECT: "Direct"}


def tables(ablation: Ablation) -> str:
    """Write the tables as Markdown. Rows without an evaluation are shown as open.

    Raises:
        CheckpointError, DataError: an input cannot be used.
        EvaluationError: an evaluation is damaged or belongs to another checkpoint.
    """
    return "\n\n".join(_parts(ablation)) + "\n"


def _parts(ablation: Ablation) -> Iterator[str]:
    yield f"# Ablation of {ablation.recipe}"
    base, size = read_manifest(ablation.base).digest, len(read_samples(ablation.test))
    asked = f" with {len(read_samples(ablation.questions))} separate questions" if ablation.questions else ""
    yield f"Base {base}; {size} test samples; stage 2 starts from the cold start `{ablation.start}`{asked}."
    yield (
        "Scores are in percent with 95 % intervals (Wilson), on the test data, in CoT mode unless a row says "
        "otherwise. Differences are in points, on the same samples, with their interval and the p-value of McNemar's "
        "exact test. Best threshold: the score and the mean DPA reward if every answer named the pictures above the "
        "best threshold on u(X), which is chosen afterwards. They show how well a model separates usable pictures, "
        "regardless of its own threshold."
    )
    if 4 in ablation.tables:
        yield "## No cold start (table 4)"
        yield table(["model", "mode", *_SCORE, "most frequent answer", "paper, 1B / 2B"], list(_table_4(ablation)))
    if 5 in ablation.tables:
        rows = [
            [title, *_score(ablation.scores(name), ablation.checkpoint(name)), f"{small:.2f} / {large:.2f}"]
            for name, (title, small, large) in COLD_STARTS.items()
        ]
        yield "## Cold start (table 5)"
        yield table(["cold start", *_SCORE, "paper, 1B / 2B"], rows)
    for number, what in ((6, "Stage 2"), (7, "The last epochs")):
        for seed in (ablation.seeds if number == 6 else ablation.seeds[:1]) if number in ablation.tables else ():
            yield f"## {what} (table {number}), seed {seed}"
            compared = ("GRPO", "DPA-GRPO") if number == 6 else ("DPA-GRPO",)
            header = ["stage 2", *_SCORE, "to the start", *(f"to {name}" for name in compared)]
            rows = list(_stage_2(ablation, number, seed, [name.lower() for name in compared]))
            yield table([*header, "paper, 1B / 2B" if number == 6 else "paper, 2B"], rows)
    if 6 in ablation.tables and len(ablation.seeds) > 1:
        yield "## Stage 2 over the seeds (table 6)"
        yield "Mean over the seeds that are finished, and the lowest and highest value."
        compared = ("GRPO", "DPA-GRPO")
        header = ["stage 2", "seeds", "score", "to the start", *(f"to {name}" for name in compared)]
        yield table(header, list(_over_seeds(ablation, [name.lower() for name in compared])))


def _table_4(ablation: Ablation) -> Iterator[list[str]]:
    for name, (title, mode, paper) in NO_COLD_START.items():
        scores, checkpoint = ablation.without_cold_start(name)
        yield [title, _MODES[mode], *_score(scores, checkpoint), _most_frequent(scores), paper]


def _stage_2(ablation: Ablation, number: int, seed: int, compared: Sequence[str]) -> Iterator[list[str]]:
    """Rows of table 6 or 7: the start, then each variant with its differences to the start and to earlier rows.

    Args:
        compared: names of the variants to which later rows are compared.
    """
    start = ablation.scores(ablation.start)
    blank = [""] * (1 + len(compared))
    yield ["start", *_score(start, ablation.checkpoint(ablation.start)), *blank, paper_start(ablation.start, number)]
    shown: list[str] = []
    for name, variant in of_table(number):
        if name not in ablation.variants:
            continue
        scores = ablation.scores(name, seed)
        differences = [
            _difference(ablation.scores(other, seed), scores) if other in shown else "" for other in compared
        ]
        found = _score(scores, ablation.trained(name, seed))
        yield [variant.title, *found, _difference(start, scores), *differences, variant.paper[number]]
        shown.append(name)


def _over_seeds(ablation: Ablation, compared: Sequence[str]) -> Iterator[list[str]]:
    """Rows of table 6 with the means over the seeds; see `_stage_2`."""
    start = ablation.scores(ablation.start)
    shown: list[str] = []
    for name, variant in of_table(6):
        if name not in ablation.variants:
            continue
        found = [ablation.scores(name, seed) for seed in ablation.seeds]
        scores = [read_evaluation(one).scores.overall.correct.percent for one in found if (one / SCORES_NAME).exists()]
        differences = [_mean(_change(start, one) for one in found)]
        for other in compared:
            before = [ablation.scores(other, seed) for seed in ablation.seeds]
            differences.append(_mean(map(_change, before, found)) if other in shown else "")
        yield [variant.title, str(len(scores)), _mean(scores), *differences]
        shown.append(name)


def _mean(values: Iterable[float | None]) -> str:
    """Mean, lowest and highest of the values that are known."""
    known = [value for value in values if value is not None]
    return f"{fmean(known):.1f} ({min(known):.1f} to {max(known):.1f})" if known else OPEN


def _change(before: Path, after: Path) -> float | None:
    found = _paired(before, after)
    return found.difference if found else None


def _most_frequent(directory: Path) -> str:
    """The answer that a model gives most often; a model that has collapsed gives one answer to every question."""
    if not (directory / SCORES_NAME).exists():
        return OPEN
    answers = Counter(one.options or "unreadable" for one in read_predictions(directory).values())
    (answer, count), total = answers.most_common(1)[0], answers.total()
    return f"{answer}, {100 * count / total:.0f} %"


def _score(directory: Path, checkpoint: Path) -> list[str]:
    if not (directory / SCORES_NAME).exists():
        return [OPEN] * len(_SCORE)
    evaluation = read_evaluation(directory)
    scores, scored = evaluation.scores, evaluation.checkpoint
    if scored is None or scored.digest != read_manifest(checkpoint).digest:
        raise EvaluationError(
            f"{directory} evaluates another checkpoint than {checkpoint}; remove it and run the command again"
        )
    correct, unreadable = scores.overall.correct, scores.unreadable
    seen = best((prediction.usable, prediction.label) for prediction in read_predictions(directory).values())
    return [
        f"{correct.percent:.1f} ({correct.low:.1f} to {correct.high:.1f})",
        f"{unreadable.percent:.1f}",
        f"{seen.score:.1f}; {seen.reward:.3f}" if seen else OPEN,
    ]


def _difference(before: Path, after: Path) -> str:
    found = _paired(before, after)
    if found is None or found.difference is None:
        return OPEN
    return f"{found.difference:+.1f} ({found.low:+.1f} to {found.high:+.1f}), p {found.p_value:.3g}"


def _paired(before: Path, after: Path) -> Paired | None:
    if not all((directory / SCORES_NAME).exists() for directory in (before, after)):
        return None
    first, second = read_predictions(before), read_predictions(after)
    if first.keys() != second.keys():
        raise EvaluationError(
            f"{before} and {after} cover different samples; remove the older one and run the command again"
        )
    return paired((first[name].correct, second[name].correct) for name in first)
