"""No number of a manifest may be one that no checkpoint has: it is refused where it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import MANIFEST_NAME, MOST_MANIFEST_BYTES, read_manifest
from screening.errors import CheckpointDamaged

CURVE = ("option", "none")


@pytest.fixture
def content(tiny_checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tiny_checkpoint / MANIFEST_NAME).read_text())
    return content


def refused(content: object, directory: Path) -> str:
    (directory / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(CheckpointDamaged, match="not a valid manifest for this version") as caught:
        read_manifest(directory)
    return str(caught.value)


def put(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    place: Any = content
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        place = place[part]
    place[last] = value
    return content


CASES = [
    *[("image.size", value) for value in (0, -128, 8, 100_000, 2**63, 1.5, 1e308)],
    *[("image.tokens_per_picture", value) for value in (0, -1, 10**9)],
    *[("image.max_patches", value) for value in (0, -1, 10**6)],
    *[(f"decoding.max_tokens_{mode}", value) for mode in ("cot", "direct") for value in (0, -1, 10**9)],
    *[("probes.tolerance", value) for value in (0, -1, 1.5, 1e9, 1e308, "NaN")],
    *[("probes.questions", value) for value in ([], None)],
    *[("probes.questions.0.logprobs.0", value) for value in (1e9, -1e9, 5.0)],
    *[("probes.questions.0.exact.0", value) for value in (1e9, -1e9, 5.0, -500.0)],
    *[("probes.questions.0.seed", value) for value in (-1, 2**64)],
    *[(f"calibration.cot.{curve}.slope", value) for curve in CURVE for value in (0, -1, 1e308, 1e-9, 1000)],
    *[(f"calibration.direct.{curve}.intercept", value) for curve in CURVE for value in (1e308, -1e308, 50)],
    *[(f"calibration.cot.{curve}.knots", [[-1e308, 0.5], [1e308, 0.6]]) for curve in CURVE],
    *[(f"calibration.cot.{curve}.knots", [[0, 1.0], [1, 1.0]]) for curve in CURVE],
    *[(f"calibration.cot.shifts.{option}", value) for option in "ABCD" for value in (1e308, -1e308, 4)],
    *[("calibration.cot.answers", value) for value in (-1, 10**12)],
    ("prompt.cot", "x" * 200_000),
    ("name", "x" * 2_000),
]


@pytest.mark.parametrize(("path", "value"), CASES, ids=[f"{path}={str(value)[:20]}" for path, value in CASES])
def test_a_number_that_no_checkpoint_has_is_refused_by_name(
    path: str, value: object, content: dict[str, Any], tmp_path: Path
) -> None:
    reason = refused(put(content, path, value), tmp_path)
    assert any(part in reason for part in path.split(".")[:2]), reason
    assert len(reason) < 1000, "what was given may be megabytes"


@pytest.mark.parametrize("field", ["size", "sha256"])
@pytest.mark.parametrize("value", [-1, 2**60, "", "x" * 64, None])
def test_a_file_entry_is_a_size_and_a_hash(field: str, value: object, content: dict[str, Any], tmp_path: Path) -> None:
    content["files"]["config.json"][field] = value
    assert "config.json" in refused(content, tmp_path)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "a/../b", "/etc/hostname", "//x", "./x", "a/./b", "a//b", "a/"]
)
def test_a_file_name_stays_in_the_directory_and_has_one_form(
    name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    content["files"][name] = {"size": 1, "sha256": "0" * 64}
    assert "files" in refused(content, tmp_path)


@pytest.mark.parametrize("name", ["x", "a/b", "..x", "a..b/c..", " ", "a\\b"])
def test_a_file_name_may_have_any_other_form(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    content["files"][name] = {"size": 1, "sha256": "0" * 64}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    assert name in read_manifest(tmp_path).files


@pytest.mark.parametrize("tensor", [{"dtype": "B" * 99, "shape": [1]}, {"dtype": "BF16", "shape": [-1]}])
def test_a_tensor_has_a_shape(tensor: dict[str, Any], content: dict[str, Any], tmp_path: Path) -> None:
    content["tensors"] = {"a": tensor}
    assert "tensors" in refused(content, tmp_path)


def test_more_files_than_a_checkpoint_has_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["files"] = {str(place): {"size": 1, "sha256": "0" * 64} for place in range(20_000)}
    assert "files" in refused(content, tmp_path)


def test_a_manifest_of_an_absurd_size_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST_NAME).open("wb") as handle:
        handle.truncate(2**40)  # a sparse file
    with pytest.raises(CheckpointDamaged, match=f"larger than {MOST_MANIFEST_BYTES} bytes"):
        read_manifest(tmp_path)
