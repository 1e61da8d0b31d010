"""A checkpoint carries its own contract: `screening.json` beside the weights.

The manifest says what the files are (sha256 each), what the model was asked in training (prompt texts, picture size,
tiling) and how its answers are to be read (decoding, calibration). It is written last, by an atomic rename: a
directory without it is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from screening.answer import Mode
from screening.calibration import UNCALIBRATED, Calibration
from screening.domain import Domain
from screening.errors import CheckpointDamaged, CheckpointUnavailable
from screening.probes import Probes
from screening.prompt import Prompt

MANIFEST_NAME = "screening.json"
_PARTIAL = f"{MANIFEST_NAME}.partial"
CARD_NAME = "README.md"
"""The model card, for people: written after the evaluation, so it is no part of what the manifest lists."""
_FIRST_FORM = {"slope": 1.0, "intercept": 0.0, "fitted_on": None}
"""What stands for no calibration in manifests from before modes had their own."""
_UNLISTED = (MANIFEST_NAME, _PARTIAL, CARD_NAME)
"""At the root, in no manifest. A crash while scores are stored leaves a partial one beside a whole checkpoint."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the checkpoint."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """Type and shape as a weight file's header says."""

    dtype: str
    shape: tuple[int, ...]


class ImageContract(_Strict):
    """How pictures are brought to the model."""

    size: int
    """Side of the square, in pixels."""
    tokens_per_picture: int
    """Image tokens in the prompt for one picture, without its begin and end tokens."""
    max_patches: int = 1
    """Tiles per picture. InternVL's processor tiles unless told otherwise, so it is told."""


class Decoding(_Strict):
    """How answers are generated."""

    mode: Literal["free", "grammar"] = "free"
    max_tokens_cot: int = Field(256, gt=0)
    max_tokens_direct: int = Field(8, gt=0)


class Manifest(_Strict):
    """The contract of one checkpoint."""

    format: Literal[1] = 1
    name: str
    version: str
    created: str
    """UTC, ISO 8601."""
    base: str | None = None
    """The model that training began from; None when it began from random weights."""
    parent: str | None = None
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
    files: dict[str, FileEntry]
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
    temporary = directory / _PARTIAL
    # Versions from before refuse a manifest with a field that they do not know.
    unknown = {name for name in ("domain", "tensors") if getattr(manifest, name) is None}
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(manifest.model_dump_json(indent=2, exclude=unknown) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(directory / MANIFEST_NAME)


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest without touching the other files.

    Raises:
        CheckpointDamaged: there is none, or it is not understood: half written, or of a later version.
        CheckpointUnavailable: there is no such directory, or it cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        if not directory.exists():
            raise CheckpointUnavailable(f"{directory} does not exist: it is not a checkpoint, or not mounted") from None
        raise CheckpointDamaged(f"{directory} has no {MANIFEST_NAME}: it is not a checkpoint, or not whole") from None
    except OSError as error:
        raise CheckpointUnavailable(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise CheckpointDamaged(f"{path} is not a manifest that this version understands: {error}") from error


def verify(directory: Path) -> Manifest:
    """Read the manifest and compare every file with it.

    Raises:
        CheckpointDamaged: a file is missing, added, of another size or of other content, or lies outside the directory.
        CheckpointUnavailable: a file cannot be read.
    """
    manifest = read_manifest(directory)
    try:
        _compare(directory, manifest)
    except RuntimeError as error:  # a symbolic link that leads to itself
        raise CheckpointDamaged(f"{directory} cannot be read whole: {error}") from error
    except OSError as error:
        raise CheckpointUnavailable(f"{directory} cannot be read whole: {error}") from error
    return manifest


def _compare(directory: Path, manifest: Manifest) -> None:
    unlisted = {directory / name for name in _UNLISTED}
    present = {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and path not in unlisted
    }
    if added := sorted(present - manifest.files.keys()):
        raise CheckpointDamaged(f"{directory} holds files that its manifest does not name: {', '.join(added)}")
    root = directory.resolve()
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.resolve().is_relative_to(root):
            raise CheckpointDamaged(f"{path} leads out of the checkpoint's directory")
        if not path.is_file():
            raise CheckpointDamaged(f"{path} is missing")
        if path.stat().st_size != entry.size:
            raise CheckpointDamaged(f"{path} has {path.stat().st_size} bytes; its manifest says {entry.size}")
        if file_sha256(path) != entry.sha256:
            raise CheckpointDamaged(f"{path} is not the file that its manifest describes (sha256 differs)")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
