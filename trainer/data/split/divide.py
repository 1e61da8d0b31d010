"""The stage `split`: check what is frozen → read the data → assign by product → write four data directories → record.

`split.json` is written last and belongs to a whole division; a killed run is finished by the same command.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.task import NONE, Dimension
from trainer.data.split.assign import Item, Shares, Split, SplitError, assign
from trainer.data.split.frozen import Frozen, check, check_source, freeze
from trainer.data.split.gather import gather
from trainer.data.split.write import write_data
from trainer.data_directory import SAMPLES_NAME, data_digest, read_any_samples, sample_lines
from trainer.metrics import random_baseline, shows
from trainer.records import Sample
from trainer.runs.run_directory import claim, see_whose, write_atomically

SPLIT_NAME = "split.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Record):
    """A data directory that was divided; its name only, paths differ between machines."""

    name: str
    samples: int


class SplitSummary(_Record):
    """One split in numbers. The means are None where it holds no samples."""

    samples: int
    unlabelled: int = 0
    """Of these, samples without a label; the figures about labels leave them out."""
    products: int
    digest: str | None
    """`trainer.data_directory.data_digest`; None for an empty split."""
    labels: dict[str, int]
    mean_label_length: float | None
    """`N` counts as one (paper, section 5.1)."""
    random_baseline: float | None
    """Percent; see `trainer.metrics.random_baseline`."""
    share_of_n: float | None
    samples_by_dimension: dict[Dimension, int]
    """Samples in which at least one picture is known to show it; see `trainer.metrics.shows`."""


class Division(_Record):
    """Everything in `split.json`."""

    format: Literal[1] = 1
    seed: int
    shares: dict[Split, float]
    data: list[Source]
    splits: dict[Split, SplitSummary]
    held_back: int
    """Samples that belong to the test split and came after it was frozen. They are in no split."""
    left_out: list[str]
    """Ids of samples that are in no split: they tie products of two splits together, by a picture or a product, or have
    no label and show a product of the test set."""
    frozen: Frozen | None
    """The test set; None where its share is 0 or no sample has a label."""


def divide(data: Sequence[Path], out: Path, shares: Shares, seed: int) -> Division:
    """Divide data directories into `out`, or divide more data into the same one.

    Raises:
        DataError: a data directory cannot be used.
        SplitError: see the messages.
        RunMismatch: `out` belongs to another run: another seed, other shares, or another command.
        OSError: a file cannot be written.
    """
    origin = {"stage": "split", "seed": seed, "shares": {split.value: str(share) for split, share in shares.items()}}
    see_whose(out, origin)
    before = read_division(out)
    frozen = before.frozen if before else None
    kept = check(out / Split.TESTING, frozen) if frozen else []

    items, counts = gather(data)
    earlier = _earlier(out) if before else {}
    _see_that_nothing_is_gone(items, earlier)
    check_source(kept, items)
    assigned = assign(items, shares, seed, earlier)
    splits = {split: [item for item in items if assigned[item.sample.id] is split] for split in Split}
    held_back = 0
    if frozen:
        held_back = len(splits[Split.TESTING]) - len(kept)  # what is frozen is among the data, as `earlier` demands
        splits[Split.TESTING] = kept
    elif shares[Split.TESTING] and not splits[Split.TESTING] and any(item.labelled for item in items):
        raise SplitError(_no_test_set(items, shares))

    claim(out, origin)
    for split, members in splits.items():
        if split is not Split.TESTING or not frozen:
            write_data(out / split, members, copy=split is Split.TESTING)
    if splits[Split.TESTING] and not frozen:
        frozen = freeze(out / Split.TESTING)
    division = Division(
        seed=seed,
        shares={split: float(share) for split, share in shares.items()},
        data=[Source(name=path.resolve().name, samples=count) for path, count in counts.items()],
        splits={split: _summary(out / split, members) for split, members in splits.items()},
        held_back=held_back,
        left_out=sorted(name for name, split in assigned.items() if split is None),
        frozen=frozen,
    )
    write_atomically(out / SPLIT_NAME, division.model_dump_json(indent=1) + "\n")
    return division


def is_test_set(data: Path, digest: str) -> bool:
    """Whether a data directory is the frozen test set of a division that it still lies in."""
    try:
        division = read_division(data.resolve().parent)
    except (SplitError, OSError):  # something else of this name
        return False
    return division is not None and division.frozen is not None and division.frozen.digest == digest


def read_division(out: Path) -> Division | None:
    """What `split.json` of a directory says; None where there is none.

    Raises:
        SplitError: it is damaged.
    """
    path = out / SPLIT_NAME
    try:
        return Division.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise SplitError(f"{path} is damaged or from another version; restore it, or give a new --out") from error


def _earlier(out: Path) -> dict[str, Split]:
    """Where the samples of earlier runs are, by id."""
    found: dict[str, Split] = {}
    for split in Split:
        path = out / split / SAMPLES_NAME
        if not path.exists():
            continue  # removed by hand; it is written again
        for number, line in sample_lines(out / split):
            try:
                found[json.loads(line)["id"]] = split
            except (ValueError, TypeError, KeyError) as error:
                raise SplitError(f"{path}, line {number} is damaged; remove the file to write it again") from error
    return found


def _see_that_nothing_is_gone(items: Sequence[Item], earlier: Mapping[str, Split]) -> None:
    gone = sorted(set(earlier) - {item.sample.id for item in items})
    if gone:
        raise SplitError(
            f"{len(gone)} samples of earlier runs are in none of the data directories, the first is {gone[0]!r}; "
            "give all of them, old and new, or divide into a new --out"
        )


def _no_test_set(items: Sequence[Item], shares: Shares) -> str:
    products = len({item.product for item in items})
    return (
        f"of {products} products none fell into the test split, whose share is {float(shares[Split.TESTING]):.2%}; "
        "give more data or other --shares, for example 0.7,0.2,0.05,0.05"
    )


def _summary(directory: Path, items: Sequence[Item]) -> SplitSummary:
    labelled = [item.sample for item in items if isinstance(item.sample, Sample)]
    labels = [sample.label for sample in labelled]
    baseline = random_baseline([sample.options for sample in labelled])
    return SplitSummary(
        samples=len(items),
        unlabelled=len(items) - len(labelled),
        products=len({item.product for item in items}),
        digest=data_digest(directory, read_any_samples(directory), check=False) if items else None,
        labels=dict(sorted(Counter(labels).items())),
        mean_label_length=round(fmean(map(len, labels)), 4) if labels else None,
        random_baseline=None if baseline is None else round(baseline, 2),
        share_of_n=round(labels.count(NONE) / len(labels), 4) if labels else None,
        samples_by_dimension={
            dimension: sum(shows(sample, dimension) for sample in labelled) for dimension in Dimension
        },
    )
