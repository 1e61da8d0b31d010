"""A checkpoint directory is accepted only if it is complete and unchanged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from screening.answer import Mode
from screening.calibration import UNCALIBRATED, Calibration, Curve
from screening.checkpoint.manifest import (
    MANIFEST_NAME,
    Decoding,
    ImageContract,
    Manifest,
    read_manifest,
    verify,
    write_manifest,
)
from screening.errors import CheckpointError
from screening.prompt import COMPACT, STANDARD, Prompt, locating
from screening.runtime.atomic_write import partial_path
from screening.task import STANDARD_DIMENSIONS

FIELDS = {
    "name": "test",
    "version": "1",
    "prompt": COMPACT,
    "image": ImageContract(size=112, tokens_per_picture=16),
    "decoding": Decoding(),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    (directory / "nested").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (directory / "config.json").write_text("{}")
    (directory / "nested" / "vocabulary.txt").write_text("a b c")
    write_manifest(directory, **FIELDS)
    return directory


def refused(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        verify(directory)
    return str(caught.value)


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


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_manifest_that_names_a_file_outside_is_refused(checkpoint, tmp_path, name):
    (tmp_path / "outside").write_text("x")
    content = json.loads((checkpoint / MANIFEST_NAME).read_text())
    content["files"][name] = {"size": 1, "sha256": "0" * 64}
    (checkpoint / MANIFEST_NAME).write_text(json.dumps(content))
    assert "points outside" in refused(checkpoint)


def test_a_directory_without_a_manifest_is_not_a_checkpoint(checkpoint):
    (checkpoint / MANIFEST_NAME).unlink()
    assert "not a checkpoint, or the copy is incomplete" in refused(checkpoint)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_half_written_manifest_is_refused(checkpoint, share):
    manifest = checkpoint / MANIFEST_NAME
    data = manifest.read_bytes()
    manifest.write_bytes(data[: int(len(data) * share)])
    assert "not a valid manifest" in refused(checkpoint)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b'{"format": 2}'])
def test_a_manifest_that_is_something_else_is_refused(checkpoint, content):
    (checkpoint / MANIFEST_NAME).write_bytes(content)
    assert "not a valid manifest" in refused(checkpoint)


def test_a_manifest_with_an_unknown_field_is_refused(checkpoint):
    content = json.loads((checkpoint / MANIFEST_NAME).read_text())
    (checkpoint / MANIFEST_NAME).write_text(json.dumps(content | {"surprise": 1}))
    assert "surprise" in refused(checkpoint)


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


def manifest(**changes: object) -> Manifest:
    fields = FIELDS | {"created": "2025-01-01T00:00:00+00:00", "files": {"a": {"size": 1, "sha256": "0" * 64}}}
    return Manifest.model_validate(fields | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": STANDARD},
        {"image": ImageContract(size=448, tokens_per_picture=16)},
        {"decoding": Decoding(mode="grammar")},
        {"calibration": {Mode.COT: Calibration(option=Curve(slope=0.5))}},
        {"calibration": {Mode.DIRECT: Calibration(option=Curve(slope=0.5))}},
        {"files": {"a": {"size": 1, "sha256": "1" * 64}}},
        {"files": {"b": {"size": 1, "sha256": "0" * 64}}},
        {"dimensions": ("physical_shadow",)},
    ],
)
def test_the_digest_changes_with_everything_that_decides_an_answer(change):
    assert manifest(**change).digest != manifest().digest


def test_the_digest_does_not_change_with_name_date_and_scores():
    other = manifest(name="other", version="9", created="2026-01-01T00:00:00+00:00", scores={"overall": 0.7})
    assert other.digest == manifest().digest
    assert other.digest.startswith("sha256:")


def test_the_digest_of_an_uncalibrated_checkpoint_stays_the_same_in_every_version():
    uncalibrated = manifest(prompt=Prompt(version="1", cot="think", direct="answer"))
    assert uncalibrated.digest == "sha256:bee58cde92dec158a9d7225aa8dba37154469b6d98b411a7395f090334547913"


def test_a_manifest_without_dimensions_means_the_standard_four_and_keeps_its_digest():
    stated = manifest(dimensions=tuple(reversed(STANDARD_DIMENSIONS)))
    assert stated == manifest() and stated.dimensions == STANDARD_DIMENSIONS
    assert stated.digest == manifest().digest


@pytest.mark.parametrize(
    ("dimensions", "words"),
    [
        (["physical_shadow", "smell"], "trained on the dimension 'smell', which this version does not know; it knows"),
        (["physical_shadow", "physical_shadow"], "a dimension is named twice"),
        ([], "at least 1 item"),
    ],
)
def test_dimensions_that_cannot_be_answered_are_refused(checkpoint, dimensions, words):
    path = checkpoint / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dimensions": dimensions}))
    assert words in refused(checkpoint)


def test_calibrations_are_kept_per_mode(checkpoint):
    fitted = Calibration(none=Curve(slope=0.5), method="platt", answers=9, data=("sha256:1",))
    write_manifest(checkpoint, **FIELDS, calibration={Mode.COT: fitted})
    read = verify(checkpoint)
    assert (read.calibration_of(Mode.COT), read.calibration_of(Mode.DIRECT)) == (fitted, UNCALIBRATED)
    assert read.calibrated_on == {"sha256:1"}
    assert read.uncalibrated.digest != read.digest


def test_the_ability_to_locate_changes_the_digest_and_its_absence_leaves_no_trace(checkpoint):
    plain = read_manifest(checkpoint)
    written = json.loads((checkpoint / MANIFEST_NAME).read_text())
    assert "locate" not in written["prompt"] and "max_tokens_locate" not in written["decoding"]
    able = plain.model_copy(
        update={"prompt": locating(COMPACT), "decoding": Decoding(max_tokens_locate=500)},
    )
    assert able.digest != plain.digest
    assert Manifest.model_validate_json(able.model_dump_json()) == able
    assert able.prompt.forms == (*plain.prompt.forms, (Mode.COT, True))
    assert (able.decoding.max_tokens(Mode.COT, locate=True), able.decoding.max_tokens(Mode.COT)) == (500, 256)
