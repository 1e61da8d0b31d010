"""Finds samples of a frozen test set among other data, also in a copy under another name, by product and picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trainer.data.split.assign import Item, Split, SplitError
from trainer.data.split.divide import read_division
from trainer.data.split.gather import picture_digests
from trainer.data_directory import read_any_samples, sample_lines

_NAMED = 3
"""Maximum number of samples that a message names."""


def read_items(directory: Path, *, limit: int | None = None) -> list[Item]:
    """The samples of a data directory with the digests of their pictures.

    Raises:
        DataError: the directory cannot be used.
    """
    pairs = zip(read_any_samples(directory), sample_lines(directory), strict=True)
    return [
        Item(sample, line, directory, picture_digests(directory, sample)) for sample, (_, line) in list(pairs)[:limit]
    ]


def frozen_beside(directories: Iterable[Path]) -> Iterator[Path]:
    """The frozen test sets of the divisions (`trainer split`) that data directories belong to.

    Raises:
        SplitError: a `split.json` is damaged, and a part of a division lies beside it.
    """
    for division in dict.fromkeys(directory.resolve().parent for directory in directories):
        try:
            record = read_division(division)
        except SplitError:
            if any((division / split).exists() for split in Split):
                raise
            continue  # another program's file of this name
        if record is not None and record.frozen is not None:
            yield division / Split.TESTING


def repeated_test_samples(items: Sequence[Item], test_sets: Iterable[Path]) -> str | None:
    """Say which samples show a product or contain a picture of a test set; None if none does.

    Raises:
        DataError: a test set cannot be read.
    """
    for directory in dict.fromkeys(path.resolve() for path in test_sets):
        ties = {tie for item in read_items(directory) for tie in item.ties}
        if shared := [item.sample.id for item in items if ties.intersection(item.ties)]:
            more = ", …" if len(shared) > _NAMED else ""
            return (
                f"{len(shared)} samples show a product or a picture of the test set {directory}: "
                f"{', '.join(shared[:_NAMED])}{more}"
            )
    return None
