"""A checkpoint directory is accepted only if it is complete and unchanged."""

from __future__ import annotations

import os

import pytest

from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.manifest import MANIFEST_NAME, read_manifest
from screening.prompt import COMPACT
from screening.runtime.atomic_write import partial_path
from tests.screening.checkpoint.conftest import FIELDS, refused


def test_an_unchanged_checkpoint_is_accepted_with_its_contract(checkpoint):
    manifest = verify(checkpoint)
    assert set(manifest.files) == {"model.safetensors", "config.json", "nested/vocabulary.txt"}
    assert manifest.image.size == 112
    assert manifest.prompt == COMPACT
    assert manifest == read_manifest(checkpoint)


def test_a_missing_file_is_named(checkpoint):
    (checkpoint / "nested" / "vocabulary.txt").unlink()
    assert "vocabulary.txt is missing" in refused(checkpoint)


@pytest.mark.parametrize(
    "name", ["extra.bin", "nested/extra.bin", f"nested/{MANIFEST_NAME}", f"nested/{MANIFEST_NAME}.partial"]
)
def test_an_added_file_is_named(checkpoint, name):
    (checkpoint / name).write_text("x")
    assert name in refused(checkpoint)


def test_a_partial_manifest_left_by_a_crash_does_not_spoil_the_checkpoint(checkpoint):
    partial_path(checkpoint / MANIFEST_NAME).write_text("{")
    assert verify(checkpoint) == read_manifest(checkpoint)


def test_a_file_of_another_size_is_named(checkpoint):
    with (checkpoint / "model.safetensors").open("ab") as handle:
        handle.write(b"!")
    assert "model.safetensors has 10241 bytes; its manifest says 10240" in refused(checkpoint)


@pytest.mark.parametrize("position", [0, 5000, 10239])
def test_a_single_changed_bit_is_found(checkpoint, position):
    data = bytearray((checkpoint / "model.safetensors").read_bytes())
    data[position] ^= 1
    (checkpoint / "model.safetensors").write_bytes(data)
    assert "sha256 differs" in refused(checkpoint)


def test_a_file_outside_the_directory_is_refused_even_with_the_right_content(checkpoint, tmp_path):
    outside = tmp_path / "outside"
    (checkpoint / "config.json").rename(outside)
    (checkpoint / "config.json").symlink_to(outside)
    assert "points outside" in refused(checkpoint)


def test_a_linked_directory_is_refused(checkpoint, tmp_path):
    (checkpoint / "nested").rename(tmp_path / "elsewhere")
    (checkpoint / "nested").symlink_to(tmp_path / "elsewhere")
    assert "nested" in refused(checkpoint)


def test_a_link_to_itself_is_refused(checkpoint):
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").symlink_to("config.json")
    assert "config.json" in refused(checkpoint)


def test_a_directory_without_a_manifest_is_not_a_checkpoint(checkpoint):
    (checkpoint / MANIFEST_NAME).unlink()
    assert "not a checkpoint, or the copy is incomplete" in refused(checkpoint)


def test_a_path_that_is_not_a_directory_is_refused(checkpoint):
    assert "config.json" in refused(checkpoint / "config.json")


def test_a_crash_before_the_last_step_leaves_the_earlier_manifest(checkpoint, monkeypatch):
    before = read_manifest(checkpoint)

    def crash(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_manifest(checkpoint, **(FIELDS | {"version": "2"}))
    assert read_manifest(checkpoint) == before
    monkeypatch.undo()
    assert write_manifest(checkpoint, **(FIELDS | {"version": "3"})) == verify(checkpoint)
