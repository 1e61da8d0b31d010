"""A small directory that is a checkpoint as far as its files and its manifest go."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.manifest import Decoding, ImageContract
from screening.errors import CheckpointError
from screening.prompt import COMPACT

FIELDS = {
    "name": "test",
    "version": "1",
    "prompt": COMPACT,
    "image": ImageContract(size=112, tokens_per_picture=16),
    "decoding": Decoding(),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Three files and their manifest."""
    directory = tmp_path / "checkpoint"
    (directory / "nested").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (directory / "config.json").write_text("{}")
    (directory / "nested" / "vocabulary.txt").write_text("a b c")
    write_manifest(directory, **FIELDS)
    return directory


def refused(directory: Path) -> str:
    """Why a directory is refused."""
    with pytest.raises(CheckpointError) as caught:
        verify(directory)
    return str(caught.value)
