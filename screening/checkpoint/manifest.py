"""A checkpoint carries its own contract: `screening.json` beside the weights.

The manifest says what the files are (sha256 each), what the model was asked in training (prompt texts, picture size,
tiling) and how its answers are to be read (decoding, calibration). It is written last, by an atomic rename: a
directory without it is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from screening.answer import Mode
from screening.calibration import UNCALIBRATED, Calibration
from screening.checkpoint.domain import Domain
from screening.checkpoint.probes import Probes
from screening.checkpoint.regular_file import Step, read_chunks, read_small, sha256_of, unwatched
from screening.errors import CheckpointDamaged, CheckpointUnavailable
from screening.prompt import Prompt
from screening.runtime.atomic_write import partial_path, write_atomically

MANIFEST_NAME = "screening.json"
_PARTIAL = partial_path(Path(MANIFEST_NAME)).name
CARD_NAME = "README.md"
"""The model card, for people: written after the evaluation, so it is no part of what the manifest lists."""
_FIRST_FORM = {"slope": 1.0, "intercept": 0.0, "fitted_on": None}
"""What stands for no calibration in manifests from before modes had their own."""
_UNLISTED = (MANIFEST_NAME, _PARTIAL, CARD_NAME)
"""At the root, in no manifest. A crash while scores are stored leaves a partial one beside a whole checkpoint."""
MOST_MANIFEST_BYTES = 4 * 2**20
"""The tiny checkpoint's has 20 kB; 10,000 tensors take 1 MB."""
MOST_FILES = 10_000

Text = Annotated[str, Field(max_length=1000)]
FileName = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]+$")]
"""Relative to the checkpoint's directory; `verify` refuses one that leads out of it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the checkpoint."""

    size: int = Field(ge=0, le=2**50)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Type and shape as a weight file's header says."""

    dtype: Annotated[str, Field(max_length=20)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], Field(max_length=16)]


class ImageContract(_Strict):
    """How pictures are brought to the model."""

    size: int = Field(ge=16, le=2048)
    """Side of the square, in pixels."""
    tokens_per_picture: int = Field(ge=1, le=16_384)
    """Image tokens in the prompt for one picture, without its begin and end tokens."""
    max_patches: int = Field(1, ge=1, le=64)
    """Tiles per picture. InternVL's processor tiles unless told otherwise, so it is told."""


class Decoding(_Strict):
    """How answers are generated."""

    mode: Literal["free", "grammar"] = "free"
    max_tokens_cot: int = Field(256, gt=0, le=32_768)
    max_tokens_direct: int = Field(8, gt=0, le=32_768)


class Manifest(_Strict):
    """The contract of one checkpoint."""

    format: Literal[1] = 1
    name: Text
    version: Text
    created: Text
    """UTC, ISO 8601."""
    base: Text | None = None
    """The model that training began from; None when it began from random weights."""
    parent: Text | None = None
    """Digest of the checkpoint that this one continues."""
    prompt: Prompt
    image: ImageContract
    decoding: Decoding
    calibration: dict[Mode, Calibration] = {}
    """Per mode, by `trainer calibrate`; see `calibration_of` for a mode that is not in it."""
    scores: dict[str, Any] = {}
    """Held-out scores, as `trainer evaluate` wrote them."""
    data: dict[str, Any] = {}
    """What it was trained on: counts, seeds, digests."""
    recipe: dict[str, Any] = {}
    """The resolved recipe."""
    probes: Probes | None = None
    """How an engine proves that it holds these weights; recorded by `trainer publish`."""
    files: dict[FileName, FileEntry] = Field(max_length=MOST_FILES)
    domain: Domain | None = None
    """What the checkpoint was trained on, and how a picture of another kind is told; by `trainer domain`."""
    tensors: dict[str, Tensor] | None = None
    """Every tensor of the weight files, by name; compared with the architecture and written by `trainer publish`. None
    in manifests that it has not written, or wrote before it knew of them."""

    @field_validator("calibration", mode="before")
    @classmethod
    def _read_first_form(cls, value: object) -> object:
        return {} if value == _FIRST_FORM else value

    @property
    def trained_on(self) -> set[str]:
        """Digests of the data directories that went into the checkpoint and its ancestors."""
        return _digests(self.data.values())

    @property
    def scored_on(self) -> set[str]:
        """Digests of the data directories behind `scores`."""
        return _digests(score.get("data") for score in self.scores.values() if isinstance(score, dict))

    @property
    def calibrated_on(self) -> set[str]:
        """Digests of the data directories that its confidence was fitted on."""
        return {digest for calibration in self.calibration.values() for digest in calibration.data}

    def calibration_of(self, mode: Mode) -> Calibration:
        """How confidence is read in a mode."""
        return self.calibration.get(mode, UNCALIBRATED)

    @property
    def uncalibrated(self) -> Manifest:
        """The same without calibration: the probabilities of single options do not depend on that."""
        return self.model_copy(update={"calibration": {}})

    @property
    def digest(self) -> str:
        """`sha256:…` over everything that decides an answer: files and contract, not name, date, scores or probes."""
        deciding = self.model_dump(include={"format", "prompt", "image", "decoding", "calibration", "files"})
        if not self.calibration:
            deciding["calibration"] = _FIRST_FORM  # digests that are in use stay what they are
        if self.domain is not None:  # likewise: a checkpoint without one keeps its digest
            deciding["domain"] = self.domain.model_dump(exclude={"probes", "tolerance"})
        return "sha256:" + hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _digests(records: Iterable[object]) -> set[str]:
    return {str(one["digest"]) for one in records if isinstance(one, dict) and "digest" in one}


def write_manifest(directory: Path, **fields: Any) -> Manifest:
    """Hash every file in `directory` and write the manifest as the last file, atomically.

    Args:
        fields: the fields of `Manifest` except `files` and `created`.
    """
    unlisted = {directory / name for name in _UNLISTED}
    files = {
        path.relative_to(directory).as_posix(): FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path not in unlisted
    }
    manifest = Manifest(files=files, created=datetime.now(UTC).isoformat(timespec="seconds"), **fields)
    store_manifest(manifest, directory)
    return manifest


def store_manifest(manifest: Manifest, directory: Path) -> None:
    """Write a manifest as it is, atomically; for new scores or another name of files that stay the same."""
    write_atomically(directory / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(directory: Path, step: Step = unwatched) -> Manifest:
    """Read the manifest without touching the other files.

    Raises:
        CheckpointDamaged: there is none, or it is not understood: half written, of a later version, or not a file.
        CheckpointUnavailable: there is no such directory, or it cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(read_small(path, MOST_MANIFEST_BYTES, step))
    except FileNotFoundError:
        if not directory.exists():
            raise CheckpointUnavailable(f"{directory} does not exist: it is not a checkpoint, or not mounted") from None
        raise CheckpointDamaged(f"{directory} has no {MANIFEST_NAME}: it is not a checkpoint, or not whole") from None
    except OSError as error:
        raise CheckpointUnavailable(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CheckpointDamaged(f"{path} is not a manifest that this version understands: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first fault and where it is; what was given may be megabytes."""
    one = error.errors(include_url=False, include_input=False, include_context=False)[0]
    more = f" ({error.error_count()} faults in all)" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}{more}"[:500]


def verify(directory: Path, step: Step = unwatched) -> Manifest:
    """Read the manifest and compare every file with it.

    Args:
        step: hears of each access, and may end the read.

    Raises:
        CheckpointDamaged: a file is missing, added, of another size or of other content, lies outside the directory, or
            is not a regular file.
        CheckpointUnavailable: a file cannot be read.
    """
    manifest = read_manifest(directory, step)
    try:
        _compare(directory, manifest, step)
    except RuntimeError as error:  # a symbolic link that leads to itself
        raise CheckpointDamaged(f"{directory} cannot be read whole: {error}") from error
    except OSError as error:
        raise CheckpointUnavailable(f"{directory} cannot be read whole: {error}") from error
    return manifest


def _compare(directory: Path, manifest: Manifest, step: Step) -> None:
    unlisted = {directory / name for name in _UNLISTED}
    present = {path.relative_to(directory).as_posix() for path in _walk(directory, step) if path not in unlisted}
    if added := sorted(present - manifest.files.keys()):
        raise CheckpointDamaged(f"{directory} holds files that its manifest does not name: {', '.join(added[:10])}")
    root = directory.resolve()
    for name in (MANIFEST_NAME, *manifest.files):
        if not (directory / name).resolve().is_relative_to(root):
            raise CheckpointDamaged(f"{directory / name} leads out of the checkpoint's directory")
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            found = sha256_of(read_chunks(path, entry.size, step))
        except FileNotFoundError:
            raise CheckpointDamaged(f"{path} is missing") from None
        if found != entry.sha256:
            raise CheckpointDamaged(f"{path} is not the file that its manifest describes (sha256 differs)")


def _walk(directory: Path, step: Step) -> Iterator[Path]:
    """Everything below that is not a directory, links included."""
    for count, path in enumerate(directory.rglob("*")):
        if count >= 2 * MOST_FILES:
            raise CheckpointDamaged(f"{directory} holds more than {2 * MOST_FILES} entries")
        step(path)
        if path.is_symlink() or not path.is_dir():
            yield path


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    return sha256_of(read_chunks(path, path.stat().st_size))
