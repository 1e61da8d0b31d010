"""Which records belong to which block. A block is screened by one worker and becomes one part of the output.

The blocks follow from the input files and the block size alone. So a block that is screened twice, because its worker
died or the command was killed, replaces its part and never adds a second answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.catalogue.sources import InputFile, read_ids


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive records of one file."""

    key: str
    """Name of its part, without the suffix."""
    file: InputFile
    first: int
    count: int
    duplicates: frozenset[int] = frozenset()
    """Rows whose id an earlier record has."""


def plan_blocks(files: Sequence[InputFile], size: int) -> Iterator[Block]:
    """Divide the files into blocks, in order.

    Args:
        files: in the order in which equal ids are resolved: the first record counts.
        size: maximum number of records of a block.
    """
    seen: set[str] = set()
    for file in files:
        duplicates = set()
        for row, identifier in enumerate(read_ids(file)):
            if (text := id_text(identifier)) is None:
                continue
            if text in seen:
                duplicates.add(row)
            seen.add(text)
        for first in range(0, file.rows, size):
            count = min(size, file.rows - first)
            own = frozenset(row for row in duplicates if first <= row < first + count)
            yield Block(_key(file.name, first), file, first, count, own)


def id_text(value: object) -> str | None:
    """An id as text, by which ids are compared; None for a value that is not an id."""
    if isinstance(value, str) and value:
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _key(name: str, first: int) -> str:
    stem = re.sub(r"[^\w.-]", "_", PurePosixPath(name).stem)[:40]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # distinguishes files of the same name in two folders
    return f"{stem}-{digest}-{first:09d}"
