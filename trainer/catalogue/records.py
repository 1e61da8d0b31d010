"""The records of a block: a row of the input with its id and its five pictures, or why it is not a question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from screening.checkpoint.manifest import ImageContract
from screening.inference.pictures import Prepared
from trainer.catalogue.pictures import load_pictures
from trainer.catalogue.plan import Block, id_text
from trainer.catalogue.rejects import Reason, Rejected
from trainer.catalogue.sources import ID, NEEDED, PICTURES, PROBLEM, kept_names, read_rows


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the input."""

    row: int
    """Number of the row in its file, from 0."""
    id: object
    cells: tuple[object, ...]
    """Values of the picture columns; empty if `problem` is set."""
    problem: Rejected | None = None

    def load(self, base: Path, image: ImageContract) -> list[Prepared]:
        """Return the five pictures as the model sees them.

        Raises:
            Rejected: the record is not a question, or a picture is not accepted.
        """
        if self.problem is not None:
            raise self.problem
        return load_pictures(self.cells, base, image)


def read_records(block: Block) -> tuple[pa.Table, list[Record]]:
    """Read the rows of a block, as a table and as records in the same order.

    If the rows cannot be read, the table has none, and each record says why.
    """
    rows = range(block.first, block.first + block.count)
    try:
        table = read_rows(block.file, block.first, block.count)
        values = {name: table.column(name).to_pylist() for name in (*NEEDED, PROBLEM) if name in table.schema.names}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # also text that is not UTF-8, two equal names
        problem = Rejected(Reason.UNREADABLE_ROWS, f"rows {rows[0]} to {rows[-1]} cannot be read: {error}")
        # With its columns, because readers take the schema of a data set from one of its parts.
        return pq.read_schema(block.file.path).empty_table(), [Record(row, None, (), problem) for row in rows]
    missing = [name for name in NEEDED if name not in values]
    ids = values.get(ID, [None] * block.count)
    if missing:
        problem = Rejected(Reason.MISSING_COLUMN, f"the file has no column {', '.join(missing)}")
        return table, [Record(row, identifier, (), problem) for row, identifier in zip(rows, ids, strict=True)]
    problems = values.get(PROBLEM, [None] * block.count)
    cells = zip(*(values[name] for name in PICTURES), strict=True)
    return table, [
        Record(row, identifier, pictures, _problem(row, identifier, problem, block))
        for row, identifier, pictures, problem in zip(rows, ids, cells, problems, strict=True)
    ]


def kept_columns(table: pa.Table, keep: tuple[str, ...] | None) -> pa.Table:
    """The columns of the input that go into the output: the id first, then the others without the pictures."""
    names = table.schema.names
    return table.select([*([ID] if ID in names else []), *kept_names(names, keep)])


def _problem(row: int, identifier: object, problem: str | None, block: Block) -> Rejected | None:
    if problem is not None:
        return Rejected(Reason.BAD_LINE, problem)
    if id_text(identifier) is None:
        return Rejected(Reason.BAD_ID, f"the id is {identifier!r:.100}; it must be text or a whole number")
    if row in block.duplicates:
        return Rejected(Reason.DUPLICATE_ID, "an earlier record has the same id; only that one counts")
    return None
