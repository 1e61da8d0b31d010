"""The stage `pseudo-label`: check the inputs, ask the checkpoint, vote, select, write.

The log of answers belongs to a checkpoint, data and a mode. The rules of the selection may change: the same answers are
then selected again, and the data directory is replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from screening.runtime.atomic_write import write_atomically
from screening.task import Options
from trainer.data.split.assign import Item
from trainer.data.split.held_out import frozen_beside, read_items, repeated_test_samples
from trainer.data_directory import data_digest, read_any_samples, read_samples
from trainer.evaluation.evaluate.by_checkpoint import OpenEngine
from trainer.evaluation.evaluate.generate import open_engine
from trainer.records import Sample
from trainer.runs.run_directory import claim
from trainer.training.pseudo_label.answers import ask, of_sample, open_answers
from trainer.training.pseudo_label.consensus import Consensus, vote
from trainer.training.pseudo_label.errors import PseudoLabelError
from trainer.training.pseudo_label.orders import ORDERS
from trainer.training.pseudo_label.output import pseudo_labelled, refuse_same_ids, write_output
from trainer.training.pseudo_label.report import PAGE_NAME, RECORD_NAME, PseudoLabels, conclude, page
from trainer.training.pseudo_label.select import Rules, class_of, select
from trainer.training.sft.agreement import contradictions


@dataclass(frozen=True, slots=True)
class Order:
    """What to label, and how."""

    checkpoint: Path
    data: Path
    out: Path
    rules: Rules
    mode: Mode = Mode.COT
    orders: int = 4
    """Number of picture orders, from the first of `ORDERS`."""
    replay: Path | None = None
    """Labelled data directory whose samples are added to the output."""
    test_data: tuple[Path, ...] = ()
    """Test sets, besides those of the divisions that `data` and `replay` belong to."""
    limit: int | None = None
    batch: int = 64


def pseudo_label(order: Order, *, open_engine: OpenEngine = open_engine) -> PseudoLabels:
    """Make pseudo-labels and write them to OUT. A killed run with the same inputs is continued.

    Args:
        open_engine: starts the engine: vLLM, unless a test gives another one.

    Raises:
        PseudoLabelError: a sample belongs to a test set, two samples have one id, or nothing was selected.
        CheckpointError, DataError, SplitError: an input cannot be used.
        RunMismatch, LogError: OUT belongs to another run, or another process is using it.
        Unfinished: the engine failed.
    """
    manifest = verify(order.checkpoint)
    items, replay = _read(order)
    digest = data_digest(order.data, read_any_samples(order.data))
    claim(order.out, {"stage": "pseudo-label", "checkpoint": manifest.digest, "data": digest, "mode": order.mode})
    votes = _votes(order, items, manifest, open_engine)

    labelled = {one.id: sample for one, sample in _samples(items, votes, manifest, order.mode)}
    contradicting = frozenset(sample.id for sample, _ in contradictions(list(labelled.values())))
    reference = _reference(votes, replay)
    selection = select(votes, order.rules, reference, contradicting)
    result = conclude(
        votes,
        selection,
        reference,
        _truth(items),
        order.rules,
        checkpoint=manifest.digest,
        model=f"{manifest.name} {manifest.version}",
        calibrated=order.mode in manifest.calibration,
        data=digest,
        mode=order.mode,
        orders=order.orders,
        replayed=len(replay),
    )
    if not selection.selected:
        reasons = ", ".join(f"{reason} {n}" for reason, n in result.rejected.items())
        raise PseudoLabelError(
            f"none of {result.questions} questions was selected ({reasons}). Lower --min-agreement or "
            "--min-confidence, or raise --max-overshare; the answers are kept"
        )
    write_output(order.out, items, {one.id: labelled[one.id] for one in selection.selected}, replay)
    write_atomically(order.out / PAGE_NAME, page(result))
    write_atomically(order.out / RECORD_NAME, result.model_dump_json(indent=1) + "\n")
    return result


def _read(order: Order) -> tuple[list[Item], list[Item]]:
    """The questions and the replayed samples, after all checks that need no engine."""
    if order.out.resolve() in {path.resolve() for path in (order.data, order.replay) if path is not None}:
        raise PseudoLabelError(f"{order.out} is one of the data directories itself; name another --out")
    items = read_items(order.data, limit=order.limit)
    replay = []
    if order.replay is not None:
        read_samples(order.replay)  # refuses samples without a label
        replay = read_items(order.replay)
    directories = [path for path in (order.data, order.replay) if path is not None]
    test_sets = (*order.test_data, *frozen_beside(directories))
    for part in (items, replay):
        if problem := repeated_test_samples(part, test_sets):
            raise PseudoLabelError(
                f"{problem}. Remove them from {part[0].directory}; `trainer split` divides data by product, so that "
                "its exploration part has none"
            )
    refuse_same_ids(items, replay)
    return items, replay


def _votes(order: Order, items: Sequence[Item], manifest: Manifest, open_engine: OpenEngine) -> list[Consensus]:
    """Ask what has no answer yet, and vote on every question."""
    samples = [item.sample for item in items]
    orders = ORDERS[: order.orders]
    with open_answers(order.out) as answers:
        if missing := answers.missing(samples, orders):
            with open_engine(order.checkpoint, manifest, order.mode) as engine:
                ask(engine, manifest, order.mode, missing, order.data, answers, batch=order.batch)
    return [vote(of_sample(answers.done, one, orders), order.mode, manifest.dimensions) for one in samples]


def _samples(
    items: Sequence[Item], votes: Sequence[Consensus], manifest: Manifest, mode: Mode
) -> list[tuple[Consensus, Sample]]:
    return [
        (one, pseudo_labelled(item.sample, one, manifest.digest, mode))
        for item, one in zip(items, votes, strict=True)
        if one.options is not None
    ]


def _reference(votes: Sequence[Consensus], replay: Sequence[Item]) -> Counter[int]:
    """Class → number of samples, of the replayed data, or of all answers if nothing is replayed."""
    labelled = [item.sample for item in replay if isinstance(item.sample, Sample)]
    if labelled:
        return Counter(len(sample.options) for sample in labelled)
    return Counter(class_of(one) for one in votes if one.options is not None)


def _truth(items: Sequence[Item]) -> Mapping[str, Options]:
    """Labels of questions that have one. They are used to measure the pseudo-labels, and for nothing else."""
    samples = [item.sample for item in items if isinstance(item.sample, Sample)]
    return {sample.id: sample.options for sample in samples if sample.pseudo_label is None}
