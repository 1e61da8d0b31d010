"""Write a split to disk as a data directory.

    DIR/samples.jsonl                               one object per line, in the order of the ids
    DIR/pictures/<id>/{original,a,b,c,d}.<suffix>
    DIR/originals/<sha256>.<suffix>                 the original in place of pictures/<id>/original, if the sample has
                                                    no `product`: samples of one original name one file, by which
                                                    `trainer.products` tells that they show the same product

Pictures are hard links if the file system allows it, because copies would double the size of a large collection. The
test set is always copied: a link shares its bytes with the source, so an edit of the source in place would change the
frozen test set.

`samples.jsonl` is replaced last and atomically, so a reader sees either the old split or the new one. The same command
finishes a killed run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from screening.runtime.atomic_write import partial_path, replacing, write_atomically
from screening.runtime.digests import file_sha256
from screening.task import OPTIONS
from trainer.data.split.assign import Item, SplitError
from trainer.data.split.gather import with_files
from trainer.data_directory import SAMPLES_NAME, json_lines, picture_path

PICTURES_NAME = "pictures"
ORIGINALS_NAME = "originals"
"""Outside the pictures, where a sample may have any id."""
_NAMES = ("original", *(option.lower() for option in OPTIONS))
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def write_data(directory: Path, items: Sequence[Item], *, copy: bool) -> None:
    """Make `directory` a data directory of exactly these samples.

    Args:
        copy: whether to copy the pictures; otherwise they are hard links if possible.

    Raises:
        SplitError: another process changed a picture during the copy.
        OSError: a file cannot be written.
    """
    pictures = directory / PICTURES_NAME
    pictures.mkdir(parents=True, exist_ok=True)
    originals: dict[str, str] = {}
    named = [(item, _files(item, originals)) for item in items]
    for item, files in named:
        for source, file, digest in zip(item.sample.files, files, item.digests, strict=True):
            (directory / file).parent.mkdir(exist_ok=True)
            _place(picture_path(item.directory, source), directory / file, digest, copy=copy)
    write_atomically(directory / SAMPLES_NAME, json_lines(with_files(item.line, files) for item, files in named))
    wanted = {_folder(item) for item in items}
    for left in sorted(pictures.iterdir()):  # left by a killed run with other data
        if left.is_dir() and left.name not in wanted:
            shutil.rmtree(left)
    kept = {directory / file for file in originals.values()}
    for left in sorted((directory / ORIGINALS_NAME).glob("*")):
        if left not in kept:
            left.unlink()


def _files(item: Item, originals: dict[str, str]) -> list[str]:
    """Names of the five pictures, relative to the data directory.

    Args:
        originals: SHA-256 → name of the originals of samples without a product; a further one is added.
    """
    folder = f"{PICTURES_NAME}/{_folder(item)}"
    suffixes = [Path(file).suffix.lower() for file in item.sample.files]
    files = [f"{folder}/{name}{suffix}" for name, suffix in zip(_NAMES, suffixes, strict=True)]
    if not item.sample.product.strip():
        digest = item.digests[0]
        files[0] = originals.setdefault(digest, f"{ORIGINALS_NAME}/{digest}{suffixes[0]}")
    return files


def _folder(item: Item) -> str:
    """The sample's id if that is a plain name, else a hash of it, because ids are free text and may contain slashes."""
    name = item.sample.id
    return name if _PLAIN.fullmatch(name) else f"id-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def _place(source: Path, target: Path, digest: str, *, copy: bool) -> None:
    if target.exists() and (not copy if target.samefile(source) else file_sha256(target) == digest):
        return
    if not copy and _linked(source, target):
        return
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        shutil.copyfile(source, partial)
        if file_sha256(partial) != digest:
            raise SplitError(f"{source} changed while it was copied; run the same command again")


def _linked(source: Path, target: Path) -> bool:
    """Make `target` a hard link of a picture; returns whether the file system allows it.

    Nothing is flushed to the disk, unlike in `replacing`: the bytes are those of the source, and a flush per picture
    would take most of the time.
    """
    partial = partial_path(target)
    partial.unlink(missing_ok=True)
    try:
        # Resolved first, because a link to a symbolic link would be a second symbolic link.
        os.link(source.resolve(), partial)
    except OSError:  # another file system, one without links, too many links
        return False
    partial.replace(target)
    return True
