"""Read the rows of files of pairs: JSON lines, CSV, Parquet, and the two layouts of the public HFPC-44k set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from screening.errors import UserError

Layout = Literal["columns", "hfpc-44k"]


class PairsError(UserError):
    """A file of pairs cannot be used; the message names the file, the row and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    where: str
    """File and row, for messages."""
    values: Mapping[str, Any]


def read_rows(path: Path, layout: Layout) -> Iterator[Row]:
    """Read all rows of one file, in order. The suffix decides: `.csv`, `.tsv`, `.parquet`; all others are JSON.

    Raises:
        PairsError: the file cannot be read, or its content does not fit its suffix.
    """
    try:
        rows = _READERS.get(path.suffix.lower(), _json_rows)(path)
        yield from _hfpc_rows(rows) if layout == "hfpc-44k" else rows
    except OSError as error:
        raise PairsError(f"{path} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise PairsError(f"{path} {_not_text(path, error)}") from error


_BINARY = {
    b"PK\x03\x04": "is an Excel workbook or another ZIP file; export its table as CSV in UTF-8",
    b"\x1f\x8b": "is compressed; unpack it first",
    b"PAR1": "is a Parquet file; rename it to end in .parquet",
}
"""First bytes of files that are not text → what the user should do."""


def _not_text(path: Path, error: UnicodeDecodeError) -> str:
    with path.open("rb") as handle:
        magic = handle.read(4)
    known = next((advice for begin, advice in _BINARY.items() if magic.startswith(begin)), None)
    return known or f"is not UTF-8 text (byte {error.start}); save it as UTF-8"


def _json_rows(path: Path) -> Iterator[Row]:
    """Read one object per line, or one list of objects in the whole file."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        values = _json(text, str(path))
        numbered = [(f"{path}, item {number}", value) for number, value in enumerate(values, 1)]
    else:
        lines = ((f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        numbered = [(where, _json(line, where)) for where, line in lines]
    for where, value in numbered:
        if not isinstance(value, dict):
            raise PairsError(f"{where}: expected a JSON object, not {type(value).__name__}")
        yield Row(where, value)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PairsError(
            f"{where}: not valid JSON ({error}); CSV and Parquet files must end in .csv or .parquet"
        ) from error


def _csv_rows(path: Path, delimiter: str | None = None) -> Iterator[Row]:
    """
    Args:
        delimiter: None chooses a comma, or a semicolon if the header has semicolons and no comma, as Excel writes it in
            many countries.
    """
    # The file is read at once, to keep line breaks inside quotes and to check the encoding before any row is used.
    text = path.read_text(encoding="utf-8-sig")
    header = text.strip().partition("\n")[0]
    delimiter = delimiter or (";" if ";" in header and "," not in header else ",")
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if not values:
                continue
            if not names:
                names = [name.strip() for name in values]
                _refuse_repeated(names, where)
            elif len(values) != len(names):
                raise PairsError(f"{where}: {len(values)} values, but the header has {len(names)} columns")
            else:
                yield Row(where, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise PairsError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def _tsv_rows(path: Path) -> Iterator[Row]:
    return _csv_rows(path, delimiter="\t")


def _refuse_repeated(names: Sequence[str], where: str) -> None:
    if repeated := [name for name in names if name and names.count(name) > 1]:
        raise PairsError(f"{where}: two columns have the name {repeated[0]!r}; rename one")


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _refuse_repeated(file.schema_arrow.names, str(path))
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", values)
    except pyarrow.ArrowException as error:
        raise PairsError(f"{path} cannot be read as a Parquet file ({error})") from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".parquet": _parquet_rows,
}


def _hfpc_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Read HFPC-44k (arXiv 2412.17504), which has two layouts; both give pictures by URL and use label 1 for usable.

    The test file has one pair per line, `{"origin", "generation", "label"}`. The training and validation files have
    `{ORIGIN: {"generations": [...], "labels": [...]}}`.
    """
    for row in rows:
        if "origin" in row.values:
            yield row
            continue
        for origin, judged in row.values.items():
            yield from _of_one_original(row.where, origin, judged)


def _of_one_original(where: str, origin: str, judged: Any) -> Iterator[Row]:
    generations = judged.get("generations") if isinstance(judged, dict) else None
    labels = judged.get("labels") if isinstance(judged, dict) else None
    if not isinstance(generations, list) or not isinstance(labels, list) or len(generations) != len(labels):
        raise PairsError(f"{where}: {origin!r} needs 'generations' and 'labels', two lists of the same length")
    for generation, label in zip(generations, labels, strict=True):
        yield Row(where, {"origin": origin, "generation": generation, "label": label})
