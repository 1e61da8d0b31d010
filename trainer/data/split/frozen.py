"""The frozen test set: written once, checked byte by byte before anything else is done, never written again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trainer.data.split.assign import Item, SplitError
from trainer.data.split.gather import picture_digests, same
from trainer.data.split.write import digest_of
from trainer.data_directory import SAMPLES_NAME, DataError, data_digest, read_samples, sample_lines

_NAMED = 5
"""Files that a message names before it says how many more there are."""


class Frozen(BaseModel):
    """What the test set is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    """`trainer.data_directory.data_digest`: the one that `trainer evaluate` writes into its results."""
    samples: int
    files: dict[str, str]
    """SHA-256 of `samples.jsonl` and of every picture, so that an error can say which one was changed."""


def freeze(directory: Path) -> Frozen:
    """Write down what the test set in a directory is.

    Raises:
        DataError: it is not a data directory.
    """
    samples = read_samples(directory)
    names = [SAMPLES_NAME, *(file for sample in samples for file in sample.files)]
    return Frozen(
        digest=data_digest(directory, samples, check=False),
        samples=len(samples),
        files={name: digest_of(directory / name) for name in names},
    )


def check(directory: Path, frozen: Frozen) -> list[Item]:
    """See that the test set is what was frozen, and read it.

    Raises:
        SplitError: a file is missing or was changed.
    """
    problems = [problem for name, digest in frozen.files.items() if (problem := _problem(directory, name, digest))]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise SplitError(
            f"the test set {directory} is frozen and no longer what it was: {', '.join(problems[:_NAMED])}{more}; "
            "restore it, or divide the data into a new --out"
        )
    try:
        samples = read_samples(directory)
        digest = data_digest(directory, samples, check=False)
    except DataError as error:
        raise SplitError(f"the test set {directory} is frozen and no longer what it was: {error}") from error
    if digest != frozen.digest:
        raise SplitError(
            f"the test set {directory} is frozen as {frozen.digest} and is now {digest}; restore it, or divide the "
            "data into a new --out"
        )
    return [
        Item(sample, line, directory, picture_digests(directory, sample))
        for sample, (_, line) in zip(samples, sample_lines(directory), strict=True)
    ]


def check_source(frozen: Iterable[Item], items: Iterable[Item]) -> None:
    """See that the given data still say the same about the frozen samples.

    Raises:
        SplitError: one has another label, text or picture there.
    """
    there = {item.sample.id: item for item in items}
    for item in frozen:
        source = there.get(item.sample.id)
        if source is not None and not same(item, source):
            what = "other pictures" if item.digests != source.digests else "another record"
            raise SplitError(
                f"sample {item.sample.id!r} is in the frozen test set, and {source.directory} now holds "
                f"{what} for it; undo the change there, or divide the data into a new --out"
            )


def _problem(directory: Path, name: str, digest: str) -> str | None:
    try:
        return None if digest_of(directory / name) == digest else f"{name} was changed"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
