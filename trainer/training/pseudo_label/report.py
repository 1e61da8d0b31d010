"""`pseudo-labels.json` and `pseudo-labels.md`: what was selected, how balanced it is, and how often it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from screening.answer import Mode
from screening.task import NONE, OPTIONS, Options
from trainer.judged import correct
from trainer.runs.markdown import table, with_interval
from trainer.shares import Share, share
from trainer.training.pseudo_label.consensus import Consensus
from trainer.training.pseudo_label.select import CLASSES, Reason, Rules, Selection, class_of

RECORD_NAME = "pseudo-labels.json"
PAGE_NAME = "pseudo-labels.md"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Record):
    """Everything that decides the selection; see `trainer.training.pseudo_label.select.Rules`."""

    mode: Mode
    orders: int
    min_agreement: float
    min_confidence: float
    max_overshare: float


class Precision(_Record):
    """How often a label is right, where the truth is known."""

    correct: Share
    """By the paper's rule (section 5.1): every option of the label is usable."""
    exact: Share
    """The label is exactly the true one. This counts for training."""


class Agreeing(_Record):
    """The questions on which this number of orders agree."""

    orders: int
    questions: int
    precision: Precision | None
    """None if no question has a known label."""


class ClassCount(_Record):
    """One class of labels before and after the selection."""

    usable: int
    """Number of usable pictures; 0 is `N`."""
    reference: int
    """Samples of the reference: the replayed data, or all answers if nothing is replayed."""
    answered: int
    selected: int


class ChoiceCount(_Record):
    """One choice before and after the selection. Unequal letters show a model that prefers positions."""

    choice: str
    answered: int
    selected: int


class PseudoLabels(_Record):
    """The content of `pseudo-labels.json`."""

    format: Literal[1] = 1
    checkpoint: str
    """Digest of the checkpoint that answered."""
    model: str
    """Its name and version."""
    calibrated: bool
    """Whether the checkpoint has a calibration for this mode. Without one, confidences are the model's own."""
    data: str
    """Digest of the unlabelled data."""
    settings: Settings
    questions: int
    selected: int
    corrected: int
    """Selected questions whose label is not the answer in the data's own order."""
    replayed: int
    flagged: int
    """Questions whose pictures are outside the checkpoint's training domain."""
    rejected: dict[str, int]
    """Reason → number of questions."""
    agreement: tuple[Agreeing, ...]
    classes: tuple[ClassCount, ...]
    choices: tuple[ChoiceCount, ...]
    answered_precision: Precision | None
    """Of all questions with a label of the vote."""
    selected_precision: Precision | None


def conclude(
    votes: Sequence[Consensus],
    selection: Selection,
    reference: Mapping[int, int],
    truth: Mapping[str, Options],
    rules: Rules,
    *,
    checkpoint: str,
    model: str,
    calibrated: bool,
    data: str,
    mode: Mode,
    orders: int,
    replayed: int,
) -> PseudoLabels:
    """Count everything that the report states.

    Args:
        reference: class → samples of the reference.
        truth: sample id → label, for the questions whose label is known. It decides nothing.
    """
    answered = [one for one in votes if one.options is not None]
    before, after = Counter(map(class_of, answered)), Counter(map(class_of, selection.selected))
    chosen_before, chosen_after = (Counter(one.choice for one in part) for part in (answered, selection.selected))
    reasons = Counter(selection.rejected.values())
    return PseudoLabels(
        checkpoint=checkpoint,
        model=model,
        calibrated=calibrated,
        data=data,
        settings=Settings(
            mode=mode,
            orders=orders,
            min_agreement=rules.min_agreement,
            min_confidence=rules.min_confidence,
            max_overshare=rules.max_overshare,
        ),
        questions=len(votes),
        selected=len(selection.selected),
        corrected=sum(not one.own_order for one in selection.selected),
        replayed=replayed,
        flagged=sum(one.flagged for one in votes),
        rejected={reason: reasons[reason] for reason in get_args(Reason) if reasons[reason]},
        agreement=tuple(_agreeing(votes, count, truth) for count in range(orders, -1, -1)),
        classes=tuple(
            ClassCount(usable=one, reference=reference.get(one, 0), answered=before[one], selected=after[one])
            for one in CLASSES
        ),
        choices=tuple(
            ChoiceCount(choice=one, answered=chosen_before[one], selected=chosen_after[one]) for one in (*OPTIONS, NONE)
        ),
        answered_precision=_precision(answered, truth),
        selected_precision=_precision(selection.selected, truth),
    )


def page(result: PseudoLabels) -> str:
    """The report as Markdown whose tables also line up as plain text."""
    settings = result.settings
    parts = [
        f"# Pseudo-labels of {result.model}: {result.selected} of {result.questions} questions",
        f"Mode {settings.mode}, {settings.orders} picture orders, agreement of at least {settings.min_agreement:g}, "
        f"confidence of at least {settings.min_confidence:g}"
        f"{'' if result.calibrated else ' (the checkpoint is not calibrated in this mode)'}, share of a class at most "
        f"{settings.max_overshare:g} times that of the reference. {result.corrected} labels correct the "
        f"answer to the data's own order. {result.replayed} labelled samples are replayed. "
        f"{result.flagged} questions show pictures outside the checkpoint's training domain.",
    ]
    if result.rejected:
        reasons = ", ".join(f"{reason} {n}" for reason, n in result.rejected.items())
        parts.append(f"Not selected: {reasons}.")
    parts += [_precision_table(result), _agreement_table(result.agreement), _class_table(result.classes)]
    choices = [[one.choice, str(one.answered), str(one.selected)] for one in result.choices]
    parts.append(table(["choice", "answered", "selected"], choices))
    return "\n\n".join(part for part in parts if part) + "\n"


def _agreeing(votes: Sequence[Consensus], count: int, truth: Mapping[str, Options]) -> Agreeing:
    part = [one for one in votes if one.agreeing == count]
    return Agreeing(orders=count, questions=len(part), precision=_precision(part, truth))


def _precision(votes: Iterable[Consensus], truth: Mapping[str, Options]) -> Precision | None:
    known = [(one.options, truth[one.id]) for one in votes if one.id in truth and one.options is not None]
    if not known:
        return None
    return Precision(
        correct=share(sum(correct(options, label) for options, label in known), len(known)),
        exact=share(sum(options == label for options, label in known), len(known)),
    )


def _precision_table(result: PseudoLabels) -> str:
    """Empty if no question has a known label."""
    if result.answered_precision is None:
        return ""
    rows = [
        [name, *_percentages(one)]
        for name, one in (("all", result.answered_precision), ("selected", result.selected_precision))
    ]
    return table(["precision, where the truth is known", "no unusable option", "exact label"], rows)


def _agreement_table(agreement: Sequence[Agreeing]) -> str:
    rows = [[str(one.orders), str(one.questions), *_percentages(one.precision)] for one in agreement]
    return table(["orders that agree", "questions", "no unusable option", "exact label"], rows)


def _class_table(classes: Sequence[ClassCount]) -> str:
    totals = [sum(getattr(one, name) for one in classes) for name in ("reference", "answered", "selected")]
    rows = [
        [
            str(one.usable) if one.usable else f"0 ({NONE})",
            *(
                f"{count} ({100 * count / total:.0f} %)" if total else "-"
                for count, total in zip((one.reference, one.answered, one.selected), totals, strict=True)
            ),
        ]
        for one in classes
    ]
    return table(["usable pictures", "reference", "answered", "selected"], rows)


def _percentages(precision: Precision | None) -> tuple[str, str]:
    return ("-", "-") if precision is None else (with_interval(precision.correct), with_interval(precision.exact))
