"""The frozen test set. It is written once and never changed, and every run first checks it byte by byte."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from screening.runtime.digests import file_sha256
from trainer.data.split.assign import Item, SplitError
from trainer.data.split.gather import picture_digests, reviewed_again, same
from trainer.data_directory import SAMPLES_NAME, DataError, data_digest, read_samples, sample_lines

_NAMED = 5
"""Maximum number of files that a message names."""


class Frozen(BaseModel):
    """The record of the frozen test set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    """`trainer.data_directory.data_digest`, which `trainer evaluate` also writes into its results."""
    samples: int
    files: dict[str, str]
    """SHA-256 of `samples.jsonl` and of every picture, so that an error can say which one was changed."""


def freeze(directory: Path) -> Frozen:
    """Record the content of the test set in a directory.

    Raises:
        DataError: the directory is not a data directory.
    """
    samples = read_samples(directory)
    names = [SAMPLES_NAME, *(file for sample in samples for file in sample.files)]
    return Frozen(
        digest=data_digest(directory, samples, check=False),
        samples=len(samples),
        files={name: file_sha256(directory / name) for name in names},
    )


def check(directory: Path, frozen: Frozen) -> list[Item]:
    """Check that the test set is unchanged, and read it.

    Raises:
        SplitError: a file is missing or was changed.
    """
    problems = [problem for name, digest in frozen.files.items() if (problem := _problem(directory, name, digest))]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise SplitError(
            f"the frozen test set {directory} was changed: {', '.join(problems[:_NAMED])}{more}; "
            "restore it, or divide the data into a new --out"
        )
    try:
        samples = read_samples(directory)
        digest = data_digest(directory, samples, check=False)
    except DataError as error:
        raise SplitError(f"the frozen test set {directory} was changed: {error}") from error
    if digest != frozen.digest:
        raise SplitError(
            f"the test set {directory} was frozen as {frozen.digest} and is now {digest}; restore it, or divide the "
            "data into a new --out"
        )
    return [
        Item(sample, line, directory, picture_digests(directory, sample))
        for sample, (_, line) in zip(samples, sample_lines(directory), strict=True)
    ]


def check_source(frozen: Iterable[Item], items: Iterable[Item]) -> list[str]:
    """Check that the source data of the frozen samples are unchanged.

    Returns:
        Ids of the samples that people have judged again since (`trainer collect`). The frozen verdict stays.

    Raises:
        SplitError: a sample has another label, text or picture in its source.
    """
    there = {item.sample.id: item for item in items}
    again = []
    for item in frozen:
        source = there.get(item.sample.id)
        if source is not None and reviewed_again(item, source):
            again.append(item.sample.id)
        elif source is not None and not same(item, source):
            what = "other pictures" if item.digests != source.digests else "another record"
            raise SplitError(
                f"sample {item.sample.id!r} is in the frozen test set, and {source.directory} now holds "
                f"{what} for it; undo the change there, or divide the data into a new --out"
            )
    return again


def _problem(directory: Path, name: str, digest: str) -> str | None:
    try:
        return None if file_sha256(directory / name) == digest else f"{name} was changed"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
