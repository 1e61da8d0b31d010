"""The input: Parquet files, or a JSON-lines file, which becomes a Parquet file in the output directory.

A column of a picture holds the bytes of its file, a path, or a struct of `bytes` and `path` as Hugging Face's data sets
have it. Relative paths start at the directory of the input file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from screening.runtime.atomic_write import replacing
from screening.runtime.digests import file_sha256
from trainer.catalogue.rejects import CatalogueError
from trainer.data_directory import SAMPLES_NAME

ID = "id"
PICTURES = ("original", "a", "b", "c", "d")
"""Columns of the five pictures."""
NEEDED = (ID, *PICTURES)
"""Columns of a question."""
PROBLEM = "__problem__"
"""Column of a converted JSON-lines file: why the line is not a question."""

_CONVERTED = "input.parquet"
_CONVERTED_SCHEMA = pa.schema([(name, pa.string()) for name in (*NEEDED, "metadata", PROBLEM)])
_LINES = 16_384
"""Lines that are converted at once."""
_FOOTER_BYTES = 65_536
_ID_ROWS = 65_536
"""Ids that are read at once."""
_READ_ROWS = 64
"""Rows that are decoded at once, so that a large row group with pictures does not fill the memory."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One Parquet file of the input."""

    name: str
    """Path relative to the input directory; the same on every machine."""
    path: Path
    base: Path
    """Directory at which relative paths of pictures start."""
    rows: int
    fingerprint: str
    """Size in bytes and SHA-256 of the file's end, which has the positions and statistics of all columns."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(pq.read_schema(self.path).names)


def find_files(data: Path, out: Path) -> list[InputFile]:
    """List the files of the input in the order of their names.

    Args:
        data: a Parquet file, a directory that contains some, a JSON-lines file as `screening-client batch` reads it, or
            a data directory with `samples.jsonl`.
        out: directory for the converted form of a JSON-lines file; it exists.

    Raises:
        CatalogueError: there is no input, a file is not a Parquet file, or a folder cannot be read.
    """
    lines = data / SAMPLES_NAME if (data / SAMPLES_NAME).is_file() else data
    if lines.suffix == ".jsonl":
        return [_converted(lines, out)]
    if data.is_dir():
        paths = sorted(path for path in _parquet_files(data) if not path.resolve().is_relative_to(out.resolve()))
        if not paths:
            raise CatalogueError(f"{data} contains neither Parquet files (*.parquet) nor {SAMPLES_NAME}")
        return [_input_file(path, path.relative_to(data).as_posix(), path.parent) for path in paths]
    if not data.exists():
        raise CatalogueError(f"{data} does not exist")
    return [_input_file(data, data.name, data.parent)]


def read_rows(file: InputFile, first: int, count: int) -> pa.Table:
    """Read consecutive rows of a file. Only the row groups that contain them are read.

    Raises:
        pyarrow.ArrowException, OSError: the file cannot be read or is damaged.
    """
    with pq.ParquetFile(file.path) as parquet:
        groups, before = _row_groups(parquet.metadata, first, count)
        skip, batches = first - before, []
        for batch in parquet.iter_batches(batch_size=_READ_ROWS, row_groups=groups):
            wanted = batch.slice(skip, count)
            skip = max(0, skip - batch.num_rows)
            if wanted.num_rows:
                batches.append(wanted)
                count -= wanted.num_rows
            if count == 0:
                break
        return pa.Table.from_batches(batches, schema=parquet.schema_arrow)


def read_ids(file: InputFile) -> Iterator[object]:
    """Yield the ids of a file in the order of its rows. A file without ids, or with damaged ones, yields None for each.

    The worker reports why a row is unreadable.
    """
    found = 0
    try:
        with pq.ParquetFile(file.path) as parquet:
            if ID in parquet.schema_arrow.names:
                for batch in parquet.iter_batches(batch_size=_ID_ROWS, columns=[ID]):
                    ids = batch.column(0).to_pylist()
                    found += len(ids)
                    yield from ids
    except (pa.ArrowException, OSError, ValueError):  # ValueError: text that is not UTF-8
        pass
    yield from (None for _ in range(file.rows - found))


def kept_names(columns: Sequence[str], keep: Collection[str] | None) -> list[str]:
    """Names of the columns that are copied to the output: all but those of the question, or those that `keep` has."""
    return [name for name in columns if name not in (*NEEDED, PROBLEM) and (keep is None or name in keep)]


def _parquet_files(data: Path) -> Iterator[Path]:
    """Yield the files below a directory whose names end in `.parquet`. Spark gives such names to directories, too.

    Links to directories are followed, after all directories that are no links. So every directory is read once, and
    links may point to each other.
    """
    seen: set[Path] = set()
    waiting = deque([data])
    while waiting:
        folder = waiting.popleft()
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise CatalogueError(
                f"{folder} cannot be read ({error.strerror}). Make it readable or remove it"
            ) from error
        for path in entries:
            if _is_hidden(path.name):
                continue
            if path.is_dir():
                (waiting.append if path.is_symlink() else waiting.appendleft)(path)
            elif path.suffix == ".parquet":
                yield path


def _input_file(path: Path, name: str, base: Path) -> InputFile:
    try:
        rows = pq.read_metadata(path).num_rows
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - _FOOTER_BYTES))
            end = hashlib.sha256(handle.read()).hexdigest()
    except (pa.ArrowException, OSError) as error:
        raise CatalogueError(f"{path} is not a readable Parquet file: {error}. Repair or remove it") from error
    return InputFile(name, path.absolute(), base.absolute(), rows, f"{size}:{end}")


def _row_groups(metadata: Any, first: int, count: int) -> tuple[list[int], int]:
    """Return the row groups that contain these rows, and the number of rows before the first of them."""
    groups, start, before = list[int](), 0, 0
    for index in range(metadata.num_row_groups):
        end = start + metadata.row_group(index).num_rows
        if start < first + count and end > first:
            if not groups:
                before = start
            groups.append(index)
        start = end
    return groups, before


def _is_hidden(name: str) -> bool:
    """Whether Spark, Hive, interrupted writers or a file system (`lost+found`) leave a file or folder of this name
    beside the data."""
    return name.startswith((".", "_")) or name == "lost+found"


def _converted(lines: Path, out: Path) -> InputFile:
    """Write the questions of a JSON-lines file as a Parquet file. The same lines give the same bytes."""
    path = out / _CONVERTED
    with replacing(path) as partial:
        with pq.ParquetWriter(partial, _CONVERTED_SCHEMA) as writer:
            for table in _tables(lines):
                writer.write_table(table)
        # An earlier run's file must be the same.
        if path.exists() and file_sha256(path) != file_sha256(partial):
            raise CatalogueError(f"{lines} has changed since {out} was begun. Name another --out")
    return _input_file(path, lines.name, lines.parent)


def _tables(lines: Path) -> Iterator[pa.Table]:
    """Yield the questions of a JSON-lines file, `_LINES` at once."""
    try:
        with lines.open("rb") as file:
            questions = (_question(line) for line in file if line.strip())
            while rows := list(islice(questions, _LINES)):
                yield pa.Table.from_pylist(rows, schema=_CONVERTED_SCHEMA)
    except OSError as error:
        raise CatalogueError(f"{lines} cannot be read ({error.strerror})") from error


def _question(line: bytes) -> dict[str, str]:
    """Read a line of `screening-client batch` or of `samples.jsonl`."""
    identifier: dict[str, str] = {}
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError("it is not a JSON object")
        if isinstance(row.get(ID), str | int | float) and (text := str(row[ID])).encode():
            identifier = {ID: text}
        generated = row["generated"]
        if len(generated) != len(PICTURES) - 1:
            raise ValueError(f"generated has {len(generated)} pictures; it must have four")
        if unused := [name for name in ("mode", "review_below", "locate") if row.get(name) is not None]:
            raise ValueError(f"{unused[0]} cannot be given for a single line; use the option of the command")
        files = [_file(picture) for picture in (row["original"], *generated)]
        # Half of a surrogate pair cannot be encoded.
        json.dumps([files, row.get("metadata")], ensure_ascii=False).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        return {
            **identifier,
            PROBLEM: f"the line is not a question with id, original and four generated pictures: {missing}",
        }
    more = {"metadata": json.dumps(row["metadata"])} if row.get("metadata") else {}
    return {**identifier, **dict(zip(PICTURES, files, strict=True)), **more}


def _file(picture: Any) -> str:
    name = picture["file"] if isinstance(picture, dict) else picture
    if not isinstance(name, str):
        raise TypeError(f"a picture is {type(name).__name__}; it must be a path")
    return name
