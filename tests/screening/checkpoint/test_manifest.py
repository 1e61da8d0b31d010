"""A manifest is read only if it is whole and valid, and its digest covers everything that decides an answer."""

from __future__ import annotations

import json

import pytest

from screening.answer import Mode
from screening.calibration import UNCALIBRATED, Calibration, Curve
from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.manifest import MANIFEST_NAME, Decoding, ImageContract, Manifest, read_manifest
from screening.prompt import COMPACT, STANDARD, Prompt, locating
from screening.task import STANDARD_DIMENSIONS
from tests.screening.checkpoint.conftest import FIELDS, refused


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_manifest_that_names_a_file_outside_is_refused(checkpoint, tmp_path, name):
    (tmp_path / "outside").write_text("x")
    content = json.loads((checkpoint / MANIFEST_NAME).read_text())
    content["files"][name] = {"size": 1, "sha256": "0" * 64}
    (checkpoint / MANIFEST_NAME).write_text(json.dumps(content))
    assert "points outside" in refused(checkpoint)


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
