"""The manifest of a checkpoint: the file `screening.json` beside the weights.

The manifest lists the files (with their SHA-256), what the model was asked in training (prompt texts, picture size,
tiling) and how to read its answers (decoding, calibration). It is written last, by an atomic rename. A directory
without it is not a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from screening.answer import Mode
from screening.calibration import UNCALIBRATED, Calibration
from screening.checkpoint.domain import Domain
from screening.checkpoint.probes import Probes
from screening.checkpoint.regular_file import Step, read_small, unwatched
from screening.errors import CheckpointDamaged, CheckpointUnavailable
from screening.prompt import Prompt
from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import json_digest
from screening.runtime.validation import first_fault
from screening.task import DIMENSIONS, STANDARD_DIMENSIONS, Dimension

MANIFEST_NAME = "screening.json"
CARD_NAME = "README.md"
"""The model card. It is written after the evaluation, so the manifest does not list it."""
_NO_CALIBRATION = {"slope": 1.0, "intercept": 0.0, "fitted_on": None}
"""Stands for no calibration in the digest of a checkpoint."""
MOST_MANIFEST_BYTES = 4 * 2**20
"""Maximum size of a manifest. That of models/tiny has 20 kB; 10,000 tensors take 1 MB."""
MOST_FILES = 10_000


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("the name of a file points outside the checkpoint's directory")
    if not path.parts or path.as_posix() != name:
        raise ValueError("the name of a file is not in its shortest form")
    return name


Text = Annotated[str, Field(max_length=1000)]
FileName = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]+$"), AfterValidator(_inside)]
"""Path relative to the checkpoint's directory, in its shortest form and without `..`. `directory.verify` also refuses
one that points outside through a link."""


def _known(value: object) -> object:
    if value not in DIMENSIONS:
        raise ValueError(
            f"the checkpoint was trained on the dimension {str(value)[:100]!r}, which this version does not know; it "
            f"knows {', '.join(DIMENSIONS)}. Use a version whose screening/task.py has that dimension"
        )
    return value


def _in_order(given: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """In the order of the table, so that the same dimensions give the same digest."""
    if len(set(given)) < len(given):
        raise ValueError("a dimension is named twice")
    return tuple(one for one in DIMENSIONS if one in given)


TrainedDimensions = Annotated[
    tuple[Annotated[Dimension, BeforeValidator(_known)], ...],
    Field(min_length=1, max_length=1000),
    AfterValidator(_in_order),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the checkpoint."""

    size: int = Field(ge=0, le=2**50)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Type and shape of a tensor, from the header of its weight file."""

    dtype: Annotated[str, Field(max_length=20)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], Field(max_length=16)]


def with_thumbnail(tiles: int) -> int:
    """Number of tiles with the thumbnail, which the processor adds to several tiles of a picture."""
    return tiles + 1 if tiles > 1 else 1


class ImageContract(_Strict):
    """How pictures are prepared for the model."""

    size: int = Field(ge=16, le=2048)
    """Side of a tile in pixels. With one tile per picture this is the side of the square picture."""
    tokens_per_picture: int = Field(ge=1, le=16_384)
    """Number of image tokens in the prompt for one tile, without the picture's begin and end tokens."""
    max_patches: int = Field(1, ge=1, le=64)
    """Maximum number of tiles per picture, without the thumbnail that the processor adds to several tiles. By default
    InternVL's processor cuts tiles, so it is always told."""

    @property
    def most_tiles(self) -> int:
        """Maximum number of tiles per picture, thumbnail included."""
        return with_thumbnail(self.max_patches)

    @property
    def most_tokens(self) -> int:
        """Maximum number of image tokens in the prompt for one picture."""
        return self.most_tiles * self.tokens_per_picture


class Decoding(_Strict):
    """How answers are generated."""

    mode: Literal["free", "grammar"] = "free"
    max_tokens_cot: int = Field(256, gt=0, le=32_768)
    max_tokens_direct: int = Field(8, gt=0, le=32_768)
    max_tokens_locate: int | None = Field(None, gt=0, le=32_768, exclude_if=lambda limit: limit is None)
    """Maximum length of an answer with the box of every issue; None if the checkpoint cannot point at issues."""

    def max_tokens(self, mode: Mode, locate: bool = False) -> int:
        """Maximum length of an answer in tokens."""
        if locate and self.max_tokens_locate is not None:
            return self.max_tokens_locate
        return self.max_tokens_cot if mode is Mode.COT else self.max_tokens_direct


class Manifest(_Strict):
    """The content of `screening.json`."""

    format: Literal[1] = 1
    name: Text
    version: Text
    created: Text
    """Time of creation in UTC, ISO 8601."""
    base: Text | None = None
    """Model that the training began with; None if it began with random weights."""
    parent: Text | None = None
    """Digest of the checkpoint whose training this one continues."""
    prompt: Prompt
    dimensions: TrainedDimensions = STANDARD_DIMENSIONS
    """What it was trained to see. Answers name these dimensions and no others, however many the code knows."""
    image: ImageContract
    decoding: Decoding
    calibration: dict[Mode, Calibration] = {}
    """Calibration of each mode, written by `trainer calibrate`. Use `calibration_of` to read it."""
    scores: dict[str, Any] = {}
    """Scores on held-out data, as `trainer evaluate` wrote them."""
    data: dict[str, Any] = {}
    """Training data: counts, seeds, digests."""
    recipe: dict[str, Any] = {}
    """The resolved recipe of the training."""
    probes: Probes | None = None
    """Questions by which a service verifies an engine's weights, recorded by `trainer publish`."""
    files: dict[FileName, FileEntry] = Field(max_length=MOST_FILES)
    domain: Domain | None = None
    """The kind of pictures that the checkpoint was trained on, written by `trainer domain`."""
    tensors: dict[str, Tensor] | None = None
    """Every tensor of the weight files, by name. `trainer publish` compares them with the architecture and writes them;
    before that it is None."""

    @property
    def trained_on(self) -> set[str]:
        """Digests of the data directories that the checkpoint and its ancestors were trained on."""
        return _digests(self.data.values())

    @property
    def selected_on(self) -> set[str]:
        """Digests of the validation data by whose scores trainings chose the weights."""
        return _digests(one.get("validation") for one in self.data.values() if isinstance(one, dict))

    @property
    def licences(self) -> set[str]:
        """Licences of the models that made the pictures of the training data, if they restrict the use of those."""
        records = (one for one in self.data.values() if isinstance(one, dict))
        return {str(name) for one in records for name in one.get("licences", ())}

    @property
    def scored_on(self) -> set[str]:
        """Digests of the data directories that `scores` were measured on."""
        return _digests(score.get("data") for score in self.scores.values() if isinstance(score, dict))

    @property
    def calibrated_on(self) -> set[str]:
        """Digests of the data directories that the calibration or the domain was fitted on."""
        fitted = [calibration.data for calibration in self.calibration.values()]
        if self.domain is not None:
            fitted.append(self.domain.calibration.data)
        return {digest for data in fitted for digest in data}

    def calibration_of(self, mode: Mode) -> Calibration:
        """Return the calibration of a mode, which is `UNCALIBRATED` if the manifest has none."""
        return self.calibration.get(mode, UNCALIBRATED)

    @property
    def uncalibrated(self) -> Manifest:
        """The same manifest without calibration, for callers who need the model's own probabilities."""
        return self.model_copy(update={"calibration": {}})

    @property
    def digest(self) -> str:
        """`sha256:…` over everything that decides an answer. Name, date, scores and probes are left out."""
        deciding = self.model_dump(include={"format", "prompt", "image", "decoding", "calibration", "files"})
        if not self.calibration:
            deciding["calibration"] = _NO_CALIBRATION
        if self.domain is not None:  # a checkpoint without one has the digest that it had before there were domains
            deciding["domain"] = self.domain.model_dump(exclude={"probes", "tolerance"})
        if self.dimensions != STANDARD_DIMENSIONS:  # likewise
            deciding["dimensions"] = self.dimensions
        return json_digest(deciding)


def _digests(records: Iterable[object]) -> set[str]:
    return {str(one["digest"]) for one in records if isinstance(one, dict) and "digest" in one}


def store_manifest(manifest: Manifest, directory: Path) -> None:
    """Write a manifest as it is, atomically. The files that it lists must not have changed."""
    write_atomically(directory / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(directory: Path, step: Step = unwatched) -> Manifest:
    """Read the manifest without touching the other files.

    Raises:
        CheckpointDamaged: there is no manifest, or it cannot be parsed: incomplete, of a later version, or not a file.
        CheckpointUnavailable: the directory does not exist or cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(read_small(path, MOST_MANIFEST_BYTES, step))
    except FileNotFoundError:
        if not directory.exists():
            raise CheckpointUnavailable(
                f"{directory} does not exist: it is not a checkpoint, or its store is not mounted"
            ) from None
        raise CheckpointDamaged(
            f"{directory} has no {MANIFEST_NAME}: it is not a checkpoint, or the copy is incomplete"
        ) from None
    except OSError as error:
        raise CheckpointUnavailable(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CheckpointDamaged(f"{path} is not a valid manifest for this version: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """Return the first fault and its place."""
    where, message = first_fault(error)
    more = f" ({error.error_count()} faults in total)" if error.error_count() > 1 else ""
    return f"{where or 'top level'}: {message}{more}"[:500]
