"""Read the parquet files of a downloaded benchmark row by row; every error names the file and the row."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from screening.runtime.digests import file_sha256
from trainer.data_directory import DataError
from trainer.research.benchmarks.layouts import Found, Layout

ROWS_AT_ONCE = 16
"""Number of rows in memory at once; rows contain their pictures."""

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")


def published_files(directory: Path, layout: Layout) -> list[Path]:
    """The parquet files of a download, in order.

    Raises:
        DataError: there are no files, or one of a numbered series is missing.
    """
    paths = sorted(directory.glob(layout.files))
    if not paths:
        raise DataError(
            f"{directory} has no {layout.files}; download {layout.title} with "
            f"`hf download {layout.home} --repo-type dataset --local-dir {directory}`"
        )
    series: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in paths:
        if match := _SHARD.fullmatch(path.name):
            series[path.parent / match["stem"], match["count"]].append(path)
    for (stem, count), there in series.items():
        if len(there) != int(count):
            raise DataError(f"only {len(there)} of {int(count)} files {stem}-* are present; download the others")
    return paths


def published_questions(paths: Sequence[Path], layout: Layout) -> Iterator[tuple[str, Found]]:
    """Every question with its position (file and row, counted from 1) for error messages.

    Raises:
        DataError: a file is not a parquet file, lacks a column or is damaged, or a row is not a question.
    """
    number = 0
    for path in paths:
        for where, row in _rows(path, layout.columns):
            try:
                found = layout.read(number, row)
            except ValueError as error:
                raise DataError(f"{where}: {error}") from error
            number += 1
            yield where, found


def files_digest(directory: Path, paths: Sequence[Path]) -> str:
    """Compute `sha256:…` over names and contents of the published files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(directory).as_posix()} {file_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise DataError(f"{path} has no column {', '.join(missing)}; is it another benchmark or version?")
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}, at row {number + 1} or soon after: the parquet file is damaged ({reason}); download it again "
            "(without Git LFS, a clone has only pointers to the files)"
        ) from error
