"""Write the available scores as the paper's tables 4 to 7, with intervals and paired tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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
from trainer.research.ablation.variants import COLD_STARTS, NO_COLD_START, Variant, of_table, paper_start
from trainer.runs.markdown import table

OPEN = "-"
"""Cell of a missing score."""
_SCORE = ("score", "unreadable", "best threshold: score; DPA")
"""Columns of `_score`."""
TITLES = {5: "Cold start", 6: "Stage 2", 7: "The last epochs"}
COMPARED = {6: {"GRPO": "grpo", "DPA-GRPO": "dpa-grpo"}, 7: {"DPA-GRPO": "dpa-grpo"}}
"""Variants to which later rows of a table are compared, by their titles."""
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
    for number, what in TITLES.items():
        if number in ablation.tables:
            for seed in ablation.seeds:
                yield f"## {what} (table {number}), seed {seed}"
                yield _table_5(ablation, seed) if number == 5 else _stage_2(ablation, number, seed)
            if len(ablation.seeds) > 1:
                yield f"## {what} (table {number}), all seeds"
                yield "Mean over the seeds that are finished, and the lowest and highest value."
                yield _cold_starts_over_seeds(ablation) if number == 5 else _over_seeds(ablation, number)


def _table_4(ablation: Ablation) -> Iterator[list[str]]:
    for name, (title, mode, paper) in NO_COLD_START.items():
        scores, checkpoint = ablation.without_cold_start(name)
        yield [title, _MODES[mode], *_score(scores, checkpoint), _most_frequent(scores), paper]


def _table_5(ablation: Ablation, seed: int) -> str:
    base = ablation.start_scores("none")
    rows = []
    for name, (title, small, large) in COLD_STARTS.items():
        scores = ablation.start_scores(name, seed)
        difference = "" if name == "none" else _difference(base, scores)
        found = _score(scores, ablation.checkpoint(name, seed))
        rows.append([title, *found, difference, f"{small:.2f} / {large:.2f}"])
    return table(["cold start", *_SCORE, "to no cold start", "paper, 1B / 2B"], rows)


def _stage_2(ablation: Ablation, number: int, seed: int) -> str:
    """Table 6 or 7: the start, then each variant with its differences to the start and to earlier rows."""
    start, compared = ablation.start_scores(ablation.start), COMPARED[number]
    blank = [""] * (1 + len(compared))
    begin = _score(start, ablation.checkpoint(ablation.start))
    rows = [["start", *begin, *blank, paper_start(ablation.start, number)]]
    shown: list[str] = []
    for name, variant in _variants(ablation, number):
        scores = ablation.scores(name, seed)
        differences = [
            _difference(ablation.scores(other, seed), scores) if other in shown else "" for other in compared.values()
        ]
        found = _score(scores, ablation.trained(name, seed))
        rows.append([variant.title, *found, _difference(start, scores), *differences, variant.paper[number]])
        shown.append(name)
    paper = "paper, 1B / 2B" if number == 6 else "paper, 2B"
    return table(["stage 2", *_SCORE, "to the start", *(f"to {title}" for title in compared), paper], rows)


def _cold_starts_over_seeds(ablation: Ablation) -> str:
    base, rows = ablation.start_scores("none"), []
    for name, (title, *_) in COLD_STARTS.items():
        if name != "none":  # no training, no seed
            found = [ablation.start_scores(name, seed) for seed in ablation.seeds]
            rows.append([title, *_scores(found), _mean(_change(base, one) for one in found)])
    return table(["cold start", "seeds", "score", "to no cold start"], rows)


def _over_seeds(ablation: Ablation, number: int) -> str:
    """Table 6 or 7 with means over the seeds; see `_stage_2`."""
    start, compared = ablation.start_scores(ablation.start), COMPARED[number]
    rows, shown = [], list[str]()
    for name, variant in _variants(ablation, number):
        found = [ablation.scores(name, seed) for seed in ablation.seeds]
        differences = [_mean(_change(start, one) for one in found)]
        for other in compared.values():
            before = [ablation.scores(other, seed) for seed in ablation.seeds]
            differences.append(_mean(map(_change, before, found)) if other in shown else "")
        rows.append([variant.title, *_scores(found), *differences])
        shown.append(name)
    return table(["stage 2", "seeds", "score", "to the start", *(f"to {title}" for title in compared)], rows)


def _variants(ablation: Ablation, number: int) -> Iterator[tuple[str, Variant]]:
    return ((name, variant) for name, variant in of_table(number) if name in ablation.variants)


def _scores(directories: Iterable[Path]) -> tuple[str, str]:
    """Number of the seeds that are finished, and their scores."""
    found = [read_evaluation(one).scores.overall.correct.percent for one in directories if (one / SCORES_NAME).exists()]
    return str(len(found)), _mean(found)


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
    products = [prediction.product for prediction in first.values()]
    return paired(((first[name].correct, second[name].correct) for name in first), products)
