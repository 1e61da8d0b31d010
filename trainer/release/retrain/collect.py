"""The first stage: finds the labelled samples.

Where labels come from is a `Collector`. The only one so far reads data directories; a new one needs a class with the
same two methods and one entry in `collector_of`.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.data.split.assign import Item, Split
from trainer.data.split.divide import read_division
from trainer.data.split.frozen import check
from trainer.data.split.gather import gather, same
from trainer.data.split.write import write_data
from trainer.data_directory import DataError, data_digest, read_any_samples, read_bytes, read_samples
from trainer.records import Sample
from trainer.release.retrain.config import Settings


class Collector(Protocol):
    """A source of labelled samples."""

    @property
    def describes(self) -> Any:
        """What the source is, as JSON values; a changed description starts a new collection."""

    def directories(self) -> Sequence[Path]:
        """Data directories with all samples that are labelled now.

        Raises:
            DataError: the source cannot be read, or holds nothing.
        """


@dataclass(frozen=True, slots=True)
class DataDirectories:
    """Data directories, given by path or by glob pattern."""

    patterns: tuple[str, ...]

    @property
    def describes(self) -> Any:
        return list(self.patterns)

    def directories(self) -> Sequence[Path]:
        found: dict[Path, None] = {}
        for pattern in self.patterns:
            matched = sorted(path for path in map(Path, glob.glob(pattern)) if path.is_dir())  # noqa: PTH207 - absolute
            if not matched:
                raise DataError(f"data.directories: nothing matches {pattern!r}; mount the data, or correct the entry")
            found |= dict.fromkeys(matched)
        return list(found)


def collector_of(settings: Settings) -> Collector:
    """The source that the configuration names."""
    return DataDirectories(settings.data.directories)


@dataclass(frozen=True, slots=True)
class News:
    """Counts of what is new since a snapshot."""

    labels: int
    products: int


def news(directories: Sequence[Path], before: Path | None) -> News:
    """Count the labels that are new or changed. Of the pictures, only the originals of samples without a product are
    read.

    Args:
        before: the snapshot of the last finished run; None counts everything.

    Raises:
        DataError: a directory cannot be used.
    """
    known = _truths([before]) if before else {}
    new = {
        name: product for name, (truth, product) in _truths(directories).items() if known.get(name, ("",))[0] != truth
    }
    return News(len(new), len(set(new.values())))


def _truths(directories: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """For each labelled sample: id → digest of the truth, and product."""
    found = {}
    for directory in directories:
        for sample in read_any_samples(directory):
            if isinstance(sample, Sample):
                verdicts = [(one.usable, sorted(one.dimensions), one.severity) for one in sample.generated]
                truth = hashlib.sha256(repr((sample.label, verdicts, sample.reasoning)).encode()).hexdigest()
                found[sample.id] = truth, sample.product.strip() or _picture_name(directory, sample)
    return found


def _picture_name(directory: Path, sample: Sample) -> str:
    return hashlib.sha256(read_bytes(directory, sample.original.file)).hexdigest()


def snapshot(directories: Sequence[Path], divided: Path, out: Path) -> dict[str, Any]:
    """Store the samples that are labelled now, so that a run reads the same data however long it takes.

    Pictures are hard links where the file system has them. A sample of the frozen test set does not change; a changed
    label of such a sample is counted and ignored.

    Args:
        divided: directory of the divided data of earlier runs, with the frozen test set.

    Returns:
        The result of the stage.

    Raises:
        DataError, SplitError: the data cannot be used.
        OSError: a file cannot be written.
    """
    items, counts = gather(directories)
    labelled = [item for item in items if item.labelled]
    if not labelled:
        raise DataError("no sample of the data directories has a label")
    frozen = {item.sample.id: item for item in _frozen(divided)}
    kept = [frozen.get(item.sample.id, item) for item in labelled]
    write_data(out, kept, copy=False)
    return {
        "directory": str(out),
        "digest": data_digest(out, read_samples(out)),
        "samples": len(kept),
        "products": len({item.product for item in kept}),
        "sources": {str(path): count for path, count in counts.items()},
        "unlabelled": len(items) - len(labelled),
        "changed_in_test_set": sum(
            not same(old, new) for new, old in zip(labelled, kept, strict=True) if new is not old
        ),
    }


def _frozen(divided: Path) -> list[Item]:
    division = read_division(divided)
    return check(divided / Split.TESTING, division.frozen) if division and division.frozen else []
