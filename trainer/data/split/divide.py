"""The stage `split`: check the frozen test set, read the data, assign by product, write one data directory per split.

`split.json` is written last, so it always describes a complete division. The same command finishes a killed run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.runtime.atomic_write import write_atomically
from screening.task import Dimension
from trainer.data.split.assign import Item, Shares, Split, SplitError, assign
from trainer.data.split.frozen import Frozen, check, check_source, freeze
from trainer.data.split.gather import gather
from trainer.data.split.write import write_data
from trainer.data_directory import SAMPLES_NAME, data_digest, read_any_samples, sample_lines
from trainer.metrics import label_statistics, shows
from trainer.records import Sample
from trainer.runs.run_directory import ORIGIN_NAME, RunMismatch, claim, occupy, see_whose

SPLIT_NAME = "split.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Record):
    """A source data directory; only its name is stored, because paths differ between machines."""

    name: str
    samples: int


class SplitSummary(_Record):
    """Statistics of one split. The means are None if it holds no samples."""

    samples: int
    unlabelled: int = 0
    """Number of samples without a label; the figures about labels exclude them."""
    products: int
    digest: str | None
    """`trainer.data_directory.data_digest`; None for an empty split."""
    labels: dict[str, int]
    mean_label_length: float | None
    """Mean length of the labels; `N` has length 1 (paper, section 5.1)."""
    random_baseline: float | None
    """Score of blind guessing in percent; see `trainer.metrics.random_baseline`."""
    share_of_n: float | None
    samples_by_dimension: dict[Dimension, int]
    """Number of samples per dimension in which at least one picture has the issue; see `trainer.metrics.shows`."""


class Division(_Record):
    """The content of `split.json`."""

    format: Literal[1] = 1
    seed: int
    shares: dict[Split, float]
    data: list[Source]
    splits: dict[Split, SplitSummary]
    held_back: int
    """Number of samples that belong to the test split but came after it was frozen. They are in no split."""
    left_out: list[str]
    """Ids of samples that are in no split because they connect products of two splits, by a picture or a product, or
    because they have no label and show a product of the test or validation set."""
    reviewed_again: list[str] = []
    """Ids of test samples that people have judged again since the test set was frozen. It keeps the earlier labels."""
    frozen: Frozen | None
    """The test set; None if its share is 0 or no sample has a label."""


def divide(data: Sequence[Path], out: Path, shares: Shares, seed: int) -> Division:
    """Divide data directories into `out`, or add data to an existing division.

    Raises:
        DataError: a data directory cannot be used.
        SplitError: the data cannot be divided; the message says why.
        RunMismatch: `out` belongs to another run: another seed, other shares, or another command; or another run
            divides into it at the same time.
        OSError: a file cannot be written.
    """
    origin = {"stage": "split", "seed": seed, "shares": {split.value: str(share) for split, share in shares.items()}}
    see_whose(out, origin)
    if (out / ORIGIN_NAME).exists():
        occupy(out)
    before = read_division(out)
    frozen = before.frozen if before else None
    kept = check(out / Split.TESTING, frozen) if frozen else []

    items, counts = gather(data)
    earlier = earlier_splits(out) if before else {}
    _see_that_nothing_is_gone(items, earlier)
    reviewed_again = check_source(kept, items)
    assigned = assign(items, shares, seed, earlier)
    splits = {split: [item for item in items if assigned[item.sample.id] is split] for split in shares}
    held_back = 0
    if frozen:
        held_back = len(splits[Split.TESTING]) - len(
            kept
        )  # `earlier` ensures that the frozen samples are among the data
        splits[Split.TESTING] = kept
    elif shares[Split.TESTING] and not splits[Split.TESTING] and any(item.labelled for item in items):
        raise SplitError(_no_test_set(items, shares))

    claim(out, origin)
    _occupy_unchanged(out, before)
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
        reviewed_again=reviewed_again,
        frozen=frozen,
    )
    write_atomically(out / SPLIT_NAME, division.model_dump_json(indent=1) + "\n")
    return division


def is_test_set(data: Path, digest: str) -> bool:
    """Whether a data directory is the frozen test set of the division around it."""
    try:
        division = read_division(data.resolve().parent)
    except (SplitError, OSError):  # another file of this name
        return False
    return division is not None and division.frozen is not None and division.frozen.digest == digest


def read_division(out: Path) -> Division | None:
    """The content of a directory's `split.json`; None if there is none.

    Raises:
        SplitError: it is damaged.
    """
    path = out / SPLIT_NAME
    try:
        return Division.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise SplitError(f"{path} is damaged or from another version; restore it, or name a new --out") from error


def earlier_splits(out: Path) -> dict[str, Split]:
    """The splits of the samples of earlier runs, by id.

    Raises:
        SplitError: a file is damaged.
    """
    found: dict[str, Split] = {}
    for split in Split:
        path = out / split / SAMPLES_NAME
        if not path.exists():
            continue  # the user removed the file; it is written again
        for number, line in sample_lines(out / split):
            try:
                found[json.loads(line)["id"]] = split
            except (ValueError, TypeError, KeyError) as error:
                raise SplitError(f"{path}, line {number} is damaged; remove the file to write it again") from error
    return found


def _occupy_unchanged(out: Path, before: Division | None) -> None:
    """Lock the directory, which is possible only now if it is new, and check that no other run was faster.

    Raises:
        RunMismatch: another run divides into it, or has done so since `before` was read.
    """
    occupy(out)
    if read_division(out) != before:
        raise RunMismatch(f"another run has divided into {out} in the meantime; repeat the command")


def _see_that_nothing_is_gone(items: Sequence[Item], earlier: Mapping[str, Split]) -> None:
    gone = sorted(set(earlier) - {item.sample.id for item in items})
    if gone:
        raise SplitError(
            f"{len(gone)} samples of earlier runs are missing from the data directories, the first is {gone[0]!r}; "
            "give all old and new directories, or name a new --out"
        )


def _no_test_set(items: Sequence[Item], shares: Shares) -> str:
    products = len({item.product for item in items})
    return (
        f"none of {products} products fell into the test split, whose share is {float(shares[Split.TESTING]):.2%}; "
        "give more data or other --shares, for example 0.7,0.2,0.05,0.05"
    )


def _summary(directory: Path, items: Sequence[Item]) -> SplitSummary:
    labelled = [item.sample for item in items if isinstance(item.sample, Sample)]
    return SplitSummary(
        samples=len(items),
        unlabelled=len(items) - len(labelled),
        products=len({item.product for item in items}),
        digest=data_digest(directory, read_any_samples(directory), check=False) if items else None,
        **label_statistics([sample.label for sample in labelled]),
        samples_by_dimension={
            dimension: sum(shows(sample, dimension) for sample in labelled) for dimension in Dimension
        },
    )
