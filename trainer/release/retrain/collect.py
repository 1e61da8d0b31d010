"""The first stage: finds the labelled samples.

Where labels come from is a `Collector`: data directories, or the reviews of a service (`reviews`). A new one needs a
class with the same methods and one entry in `collector_of`.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from trainer.data.split.assign import Item, Split
from trainer.data.split.divide import earlier_splits, read_division
from trainer.data.split.frozen import check
from trainer.data.split.gather import gather, same
from trainer.data.split.write import write_data
from trainer.data_directory import DataError, data_digest, read_any_samples, read_bytes, read_samples, sample_lines
from trainer.records import Sample
from trainer.release.retrain.config import Settings
from trainer.release.retrain.reviews import Reviews
from trainer.release.retrain.truth import Truth


class Collector(Protocol):
    """A source of labelled samples."""

    @property
    def describes(self) -> Any:
        """What the source is, as JSON values; a changed description starts a new collection."""

    @property
    def can_lose(self) -> bool:
        """Whether samples with `provenance` may be missing, because they were erased. Otherwise that is an error."""

    def truths(self, run: Path | None) -> dict[str, Truth]:
        """All labels that there are now, by sample id. Reading them must be cheap: it decides whether a run begins.

        Args:
            run: directory of the last finished run, for sources that leave out what it could not use; None if there is
                none.

        Raises:
            DataError, CollectError: the source cannot be read.
        """

    def directories(self, run: Path) -> Sequence[Path]:
        """Data directories with all samples that are labelled now.

        Args:
            run: directory of the run, for sources that must write data directories first.

        Raises:
            DataError, CollectError: the source cannot be read.
        """


@dataclass(frozen=True, slots=True)
class DataDirectories:
    """Data directories, given by path or by glob pattern."""

    patterns: tuple[str, ...]
    can_lose = False

    @property
    def describes(self) -> Any:
        return list(self.patterns)

    def truths(self, _run: Path | None) -> dict[str, Truth]:
        return truths_in(self._found())

    def directories(self, _run: Path) -> Sequence[Path]:
        return self._found()

    def _found(self) -> Sequence[Path]:
        found: dict[Path, None] = {}
        for pattern in self.patterns:
            matched = sorted(path for path in map(Path, glob.glob(pattern)) if path.is_dir())  # noqa: PTH207 - absolute
            if not matched:
                raise DataError(f"data.directories: nothing matches {pattern!r}; mount the data, or correct the entry")
            found |= dict.fromkeys(matched)
        return list(found)


@dataclass(frozen=True, slots=True)
class Several:
    """Several sources together."""

    sources: tuple[Collector, ...]

    @property
    def describes(self) -> Any:
        return [source.describes for source in self.sources]

    @property
    def can_lose(self) -> bool:
        return any(source.can_lose for source in self.sources)

    def truths(self, run: Path | None) -> dict[str, Truth]:
        return {name: truth for source in self.sources for name, truth in source.truths(run).items()}

    def directories(self, run: Path) -> Sequence[Path]:
        return [directory for source in self.sources for directory in source.directories(run)]


def collector_of(settings: Settings) -> Collector:
    """The sources that the configuration names."""
    sources: list[Collector] = []
    if settings.data.directories:
        sources.append(DataDirectories(settings.data.directories))
    if collect := settings.data.collect:
        sources.append(Reviews(collect.service, collect.key_file))
    return sources[0] if len(sources) == 1 else Several(tuple(sources))


@dataclass(frozen=True, slots=True)
class News:
    """Counts of what is new since a snapshot."""

    labels: int
    products: int


def news(collector: Collector, before: Path | None, divided: Path) -> News:
    """Count the labels that are new or changed.

    A changed label of the frozen test set does not count: the snapshot keeps the earlier one, so the label would be
    new again at every decision.

    Args:
        before: the snapshot of the last finished run; None counts everything.
        divided: directory of the divided data of earlier runs, with the frozen test set.

    Raises:
        DataError, CollectError, SplitError: a source or the divided data cannot be used.
    """
    known = truths_in([before]) if before else {}
    frozen = {name for name, split in earlier_splits(divided).items() if split is Split.TESTING}
    new = [
        truth
        for name, truth in collector.truths(before.parent if before else None).items()
        if name not in known or (name not in frozen and known[name].digest != truth.digest)
    ]
    return News(len(new), len({truth.product for truth in new}))


def truths_in(directories: Sequence[Path]) -> dict[str, Truth]:
    """The labels in data directories. Of the pictures, only the originals of samples without a product are read."""
    return {
        sample.id: Truth.of(sample, partial(_picture_name, directory, sample))
        for directory in directories
        for sample in read_any_samples(directory)
        if isinstance(sample, Sample)
    }


def _picture_name(directory: Path, sample: Sample) -> str:
    return hashlib.sha256(read_bytes(directory, sample.original.file)).hexdigest()


def snapshot(collector: Collector, divided: Path, out: Path) -> dict[str, Any]:
    """Store the samples that are labelled now, so that a run reads the same data however long it takes.

    Pictures are hard links where the file system has them. A sample of the frozen test set does not change; a changed
    label of such a sample is counted and ignored. If reviews of the earlier division were erased, `gone` says how many,
    and the data must be divided again.

    Args:
        divided: directory of the divided data of earlier runs, with the frozen test set.
        out: directory of the stage, in that of the run.

    Returns:
        The result of the stage.

    Raises:
        DataError, CollectError, SplitError: the data cannot be used, or samples are missing that were not erased.
        OSError: a file cannot be written.
    """
    items, counts = gather(collector.directories(out.parent))
    labelled = [item for item in items if item.labelled]
    if not labelled:
        raise DataError("no sample has a label yet")
    gone = _erased(divided, {item.sample.id for item in labelled}) if collector.can_lose else 0
    frozen = {} if gone else {item.sample.id: item for item in _frozen(divided)}
    kept = [frozen.get(item.sample.id, item) for item in labelled]
    write_data(out, kept, copy=False)
    return {
        "directory": str(out),
        "digest": data_digest(out, read_samples(out)),
        "samples": len(kept),
        "products": len({item.product for item in kept}),
        "sources": {str(path): count for path, count in counts.items()},
        "unlabelled": len(items) - len(labelled),
        "gone": gone,
        "changed_in_test_set": sum(
            not same(old, new) for new, old in zip(labelled, kept, strict=True) if new is not old
        ),
    }


def _erased(divided: Path, there: Collection[str]) -> int:
    """Count the reviews of the earlier division that are missing.

    Args:
        there: ids of the samples that are labelled now.

    Raises:
        DataError: another sample is missing. People erase only reviews, so a data directory is not in its place.
        SplitError: a file of the division is damaged.
    """
    earlier = earlier_splits(divided)
    missing = set(earlier).difference(there)
    reviewed = {
        record["id"]
        for split in set(earlier.values())
        for _, line in sample_lines(divided / split)
        if (record := json.loads(line)).get("provenance")
    }
    if others := sorted(missing - reviewed):
        raise DataError(
            f"{len(others)} samples of earlier runs are missing from the data directories, the first is {others[0]!r}; "
            "bring their directory back, or give another `work`"
        )
    return len(missing)


def _frozen(divided: Path) -> list[Item]:
    division = read_division(divided)
    return check(divided / Split.TESTING, division.frozen) if division and division.frozen else []
