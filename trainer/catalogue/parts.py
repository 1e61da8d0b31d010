"""The output directory: one part of answers per finished block, one part of rejects per block that has some.

OUT/answers/KEY.parquet    the answered records; the block is finished when this file exists
OUT/rejects/KEY.parquet    the records without an answer; written before the answers
OUT/attempts/KEY           notes of the workers on a block, until shortly after it is finished
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from screening.runtime.atomic_write import replacing
from trainer.catalogue.rejects import RETRYABLE

_SUFFIX = ".parquet"


class Parts:
    """The parts of an output directory."""

    def __init__(self, out: Path) -> None:
        self.answers = out / "answers"
        self.rejects = out / "rejects"
        self.attempts = out / "attempts"

    def prepare(self) -> None:
        """Create the directories, and remove what killed writers left."""
        for directory in (self.answers, self.rejects, self.attempts):
            directory.mkdir(parents=True, exist_ok=True)
            for left in directory.glob(".*.partial"):
                left.unlink(missing_ok=True)

    def finished(self) -> set[str]:
        """Keys of the finished blocks."""
        return {path.stem for path in self.answers.glob(f"*{_SUFFIX}")}

    def commit(self, key: str, answers: pa.Table, rejects: pa.Table) -> None:
        """Write the parts of a finished block. A kill at any moment leaves it finished or unfinished.

        Raises:
            OSError: a part cannot be written.
        """
        if rejects.num_rows:
            _write(self.rejects / f"{key}{_SUFFIX}", rejects)
        else:
            (self.rejects / f"{key}{_SUFFIX}").unlink(missing_ok=True)
        _write(self.answers / f"{key}{_SUFFIX}", answers)
        (self.attempts / key).unlink(missing_ok=True)

    def reopen_rejected(self) -> None:
        """Make blocks unfinished that have rejects for reasons that may have passed."""
        for path in self.rejects.glob(f"*{_SUFFIX}"):
            if set(_column(path, "reason")) & set(RETRYABLE):
                (self.answers / path.name).unlink(missing_ok=True)
                (self.attempts / path.stem).unlink(missing_ok=True)

    def choices(self) -> Iterator[str | None]:
        """Yield the choice of every answered record; None for an unreadable answer."""
        for path in sorted(self.answers.glob(f"*{_SUFFIX}")):
            yield from _column(path, "choice")

    def reasons(self) -> Iterator[str]:
        """Yield the reason of every rejected record of a finished block."""
        finished = self.finished()
        for path in sorted(self.rejects.glob(f"*{_SUFFIX}")):
            if path.stem in finished:
                yield from _column(path, "reason")


def _write(path: Path, table: pa.Table) -> None:
    # Two workers may write the same part, if one of them was wrongly believed to be dead.
    with replacing(path, shared=True) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _column(path: Path, name: str) -> list[str]:
    values: list[str] = pq.read_table(path, columns=[name], partitioning=None).column(0).to_pylist()
    return values
