"""Writes the data directory for `sft` and `hcm-grpo`: the pseudo-labelled samples, then the replayed ones.

OUT/samples.jsonl, OUT/pictures/    as `trainer split` writes a part; the pictures are hard links where possible
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from screening.answer import Mode
from screening.task import OPTIONS, options_text
from trainer.data.split.assign import Item
from trainer.data.split.write import write_data
from trainer.records import AnySample, PseudoLabel, Sample
from trainer.training.pseudo_label.consensus import Consensus
from trainer.training.pseudo_label.errors import PseudoLabelError

_FROM_A_LABEL = {"label", "reasoning", "generated", "provenance", "pseudo_label"}
"""Fields of a sample that follow from its earlier label, and the pictures, which are written without their verdicts."""


def pseudo_labelled(sample: AnySample, vote: Consensus, checkpoint: str, mode: Mode) -> Sample:
    """A sample with its pseudo-label. What was known about its defects is left out, because it follows from a label.

    Args:
        vote: the vote on this sample; it must have a label.
        checkpoint: digest of the checkpoint that answered.
    """
    assert vote.options is not None
    known = sample.model_dump(mode="json", exclude=_FROM_A_LABEL)
    pictures = [
        {"file": one.file, "option": option, "caption": one.caption}
        for option, one in zip(OPTIONS, sample.generated, strict=True)
    ]
    origin = PseudoLabel(
        checkpoint=checkpoint,
        mode=mode,
        orders=vote.orders,
        agreement=round(vote.agreement, 4),
        confidence=round(vote.confidence, 4),
    )
    label = {"label": options_text(vote.options), "reasoning": vote.reasoning or "", "pseudo_label": origin}
    return Sample.model_validate({**known, "generated": pictures, **label})


def write_output(out: Path, items: Sequence[Item], labelled: Mapping[str, Sample], replay: Iterable[Item]) -> None:
    """Write the pseudo-labelled samples and the replayed ones; files of another selection are replaced.

    Args:
        items: the questions, in order; those without a pseudo-label are left out.
        labelled: sample id → pseudo-labelled sample.

    Raises:
        SplitError: another process changed a picture during the copy.
        OSError: a file cannot be written.
    """
    new = [
        replace(item, sample=sample, line=sample.model_dump_json().encode())
        for item in items
        if (sample := labelled.get(item.sample.id)) is not None
    ]
    write_data(out, [*new, *replay], copy=False)


def refuse_same_ids(items: Iterable[Item], replay: Iterable[Item]) -> None:
    """Refuse two different questions of one id, because a data directory holds each id once.

    Raises:
        PseudoLabelError: an id is in both.
    """
    if both := sorted({item.sample.id for item in items} & {item.sample.id for item in replay}):
        raise PseudoLabelError(
            f"{len(both)} ids are in --data and in --replay, the first is {both[0]!r}. Rename them, or remove the "
            "samples from one of the two"
        )
