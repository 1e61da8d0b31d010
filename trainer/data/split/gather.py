"""Read the samples of all data directories, each sample once, with the digests of its pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.data.split.assign import Item, SplitError
from trainer.data_directory import read_any_samples, read_bytes, sample_lines
from trainer.records import AnySample, Sample


def gather(directories: Sequence[Path]) -> tuple[list[Item], dict[Path, int]]:
    """Read and hash all samples. A sample that is in several directories is taken once. If people judged it again
    between two snapshots of `trainer collect`, the latest verdict is taken.

    Returns:
        The items in the order of their ids, and how many samples each directory holds.

    Raises:
        DataError: a directory is not a data directory.
        SplitError: two directories hold different samples under one id, or a label is a pseudo-label.
    """
    found: dict[str, Item] = {}
    counts: dict[Path, int] = {}
    for directory in directories:
        samples = read_any_samples(directory)
        counts[directory] = len(samples)
        pairs = list(zip(samples, sample_lines(directory), strict=True))
        for sample, (_, line) in tqdm(pairs, desc=f"reading {directory.resolve().name}", unit="sample"):
            _refuse_pseudo_label(sample, directory)
            item = Item(sample, line, directory, picture_digests(directory, sample))
            other = found.setdefault(sample.id, item)
            if reviewed_again(other, item):
                found[sample.id] = max(other, item, key=_reviewed_at)
            elif other is not item and not same(other, item):
                raise SplitError(
                    f"{directory} and {other.directory} hold different samples with the id {sample.id!r}; rename one"
                )
    return [found[name] for name in sorted(found)], counts


def _refuse_pseudo_label(sample: AnySample, directory: Path) -> None:
    if isinstance(sample, Sample) and sample.pseudo_label is not None:
        raise SplitError(
            f"{directory}: a checkpoint gave sample {sample.id!r} its label (`trainer pseudo-label`), so it must not "
            "come into a test set. Split the unlabelled data, and give the pseudo-labelled data to the training"
        )


def picture_digests(directory: Path, sample: AnySample) -> tuple[str, ...]:
    """SHA-256 of the five pictures, in the order of `Sample.files`.

    Raises:
        DataError: a picture cannot be read.
    """
    return tuple(hashlib.sha256(read_bytes(directory, file)).hexdigest() for file in sample.files)


def same(one: Item, other: Item) -> bool:
    """Whether two items are the same question with the same truth; the names of their files may differ."""
    return one.digests == other.digests and _without_files(one.line) == _without_files(other.line)


def reviewed_again(one: Item, other: Item) -> bool:
    """Whether two items are the same question with people's verdicts of different times (`trainer collect`)."""
    both = one.sample.provenance and other.sample.provenance
    return bool(both) and one.digests == other.digests and _reviewed_at(one) != _reviewed_at(other)


def _reviewed_at(item: Item) -> datetime:
    assert item.sample.provenance  # `reviewed_again`
    return item.sample.provenance.at


def with_files(line: bytes, files: Iterable[str]) -> dict[str, Any]:
    """A line of `samples.jsonl` as an object, with other names for its five pictures."""
    record: dict[str, Any] = json.loads(line)
    original, *generated = (
        {**({} if isinstance(picture, str) else picture), "file": file}
        for picture, file in zip((record["original"], *record["generated"]), files, strict=True)
    )
    return {**record, "original": original, "generated": generated}


def _without_files(line: bytes) -> dict[str, Any]:
    return with_files(line, [""] * 5)
