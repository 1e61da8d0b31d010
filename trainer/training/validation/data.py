"""The validation samples of a training: read, checked and drawn once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from trainer.data.split.assign import Item
from trainer.data.split.held_out import frozen_beside, read_items, repeated_test_samples
from trainer.data_directory import DataError, data_digest, read_samples, sample_lines
from trainer.records import Sample
from trainer.training.distributed import done_by_first, processes
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import ValidationRecipe


@dataclass(frozen=True, slots=True)
class Validation:
    """The samples on which a training scores its model, and the settings."""

    settings: ValidationRecipe
    directory: Path
    digest: str
    """Digest of the whole directory."""
    samples: tuple[Sample, ...]
    """Those that are asked, drawn by the stage's seed, in the order of the file."""
    mode: Mode
    """How they are asked."""


def read_validation(
    directory: Path | None,
    settings: ValidationRecipe | None,
    section: str,
    *,
    training: Sequence[Sample],
    data: Path,
    parent: Manifest,
    seed: int,
    mode: Mode = Mode.COT,
) -> Validation | None:
    """Read and check the validation data of a stage; None if none are given.

    Args:
        directory: value of `--validation`.
        section: section of the recipe that `settings` belongs to, for messages.
        training: the samples that the stage trains on.
        data: their directory.
        parent: manifest of the checkpoint that the training starts from.
        seed: seed of the stage, which draws the samples.
        mode: how the samples are asked.

    Raises:
        RecipeError: there are no settings for them.
        DataError: the directory is empty or cannot be used, holds samples of the training data or of a test set, or the
            parent was trained on it.
    """
    if directory is None:
        return None
    if settings is None:
        raise RecipeError(
            f"--validation needs the section {section}.validation in the recipe, for example {{every_steps: 50}}"
        )
    if next(iter(sample_lines(directory)), None) is None:
        raise DataError(
            f"the validation data {directory} hold no samples. Divide more data or raise `split --validation`, or "
            f"remove {section}.validation from the recipe"
        )
    samples = read_samples(directory)
    digest = done_by_first(lambda: _checked_digest(directory, samples, training, data), processes())
    if digest in parent.trained_on:
        raise DataError(
            f"--validation {directory}: the checkpoint was trained on these data in an earlier stage, so their score "
            "would hide overfitting. Give other data, such as the part that `split --validation` makes"
        )
    return Validation(settings, directory, digest, drawn(samples, settings.samples, seed), mode)


def _checked_digest(directory: Path, samples: Sequence[Sample], training: Sequence[Sample], data: Path) -> str:
    """The digest of validation data that hold no sample of the training data or of a test set."""
    items = read_items(directory)
    _refuse_training_samples(items, training, directory, data)
    if problem := repeated_test_samples(items, frozen_beside((data, directory))):
        raise DataError(
            f"--validation {directory}: {problem}. Validation chooses the weights, so later scores on the test set "
            "would be too good. Give other data, such as the part that `split --validation` makes"
        )
    return data_digest(directory, samples)


def check_given(section: str, settings: ValidationRecipe | None, validation: Validation | None) -> None:
    """Check that a stage whose recipe asks for a validation has validation data.

    Raises:
        RecipeError: it has none.
    """
    if settings and not validation:
        raise RecipeError(
            f"{section}.validation is set, and there are no validation data. Give --validation DIR, or remove the "
            "section"
        )


def drawn(samples: Sequence[Sample], most: int, seed: int) -> tuple[Sample, ...]:
    """At most `most` samples, drawn at random without replacement, in their order."""
    if len(samples) <= most:
        return tuple(samples)
    places = random.Random(f"validation, seed {seed}").sample(range(len(samples)), most)
    return tuple(samples[place] for place in sorted(places))


def _refuse_training_samples(items: Sequence[Item], training: Sequence[Sample], directory: Path, data: Path) -> None:
    ids = {sample.id for sample in training}
    ties = {tie for item in read_items(data) if item.sample.id in ids for tie in item.ties}
    shared = [item.sample.id for item in items if item.sample.id in ids or ties.intersection(item.ties)]
    if shared:
        raise DataError(
            f"--validation {directory}: {len(shared)} of {len(items)} samples, the first is {shared[0]!r}, are in the "
            f"training data {data} or show a product or picture of it, so their score would hide overfitting. Give "
            "data of other products, such as the part that `split --validation` makes"
        )
