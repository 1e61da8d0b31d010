"""Evaluations that cannot be compared are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Mode
from tests.trainer.evaluation.compare.evaluations import (
    LABELS,
    compare,
    make_data,
    make_evaluation,
    result,
    think,
)
from trainer.data_directory import data_digest, read_samples

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": Mode.DIRECT}, "differ in their mode (cot and direct)"),
        ({"limit": 4}, "differ in their number of samples (5 and 4)"),
    ],
)
def test_evaluations_with_different_settings_are_refused(
    tmp_path: Path,
    before: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    other = make_evaluation(tmp_path / "other", data, [think(label) for label in LABELS], **changes)
    assert compare(before, other, tmp_path / "out", data) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluations_of_other_data_are_refused(
    tmp_path: Path, before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "other-data", comment="another word")
    other = make_evaluation(tmp_path / "other", data, [think(label) for label in LABELS])
    assert compare(before, other, tmp_path / "out") == 2
    assert "differ in their data (sha256:" in capsys.readouterr().err


def test_other_data_than_the_evaluations_is_refused(
    tmp_path: Path, before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_data(tmp_path / "other", ("A", "B", "C", "D", "N"))
    assert compare(before, after, tmp_path / "out", other) == 2
    assert "but the evaluations are of sha256:" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 3, -30])
def test_an_incomplete_log_is_refused(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str], keep: int
) -> None:
    log = after / "predictions.jsonl"
    text = log.read_text()
    log.write_text(text[:keep] if keep < 0 else "".join(text.splitlines(keepends=True)[:keep]))
    for named in (data, None):
        assert compare(before, after, tmp_path / "out", named) == 2
        assert "is not the log from which the scores were computed" in capsys.readouterr().err


def test_a_log_with_other_answers_than_the_scores_is_refused(
    tmp_path: Path, before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = after / "predictions.jsonl"
    log.write_text(log.read_text().replace('"options":"B"', '"options":"C"'))
    assert compare(before, after, tmp_path / "out") == 2
    assert "is not the log from which the scores were computed" in capsys.readouterr().err
    log.write_text("{}\n")
    assert compare(before, after, tmp_path / "out") == 2
    assert "predictions.jsonl, line 1 is damaged or not a prediction of this version" in capsys.readouterr().err


def test_an_evaluation_that_did_not_end_is_refused(
    tmp_path: Path, before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (after / "scores.json").unlink()
    assert compare(before, after, tmp_path / "out") == 2
    assert "Run `trainer evaluate` to its end" in capsys.readouterr().err
    assert compare(tmp_path / "nowhere", after, tmp_path / "out") == 2


def test_a_damaged_picture_is_named(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = data / "pictures" / "s2" / "b.png"
    picture.write_bytes(b"no picture")
    digest = data_digest(data, read_samples(data), check=False)
    for directory in (before, after):
        scores = json.loads((directory / "scores.json").read_text())
        scores["data"]["digest"] = digest
        (directory / "scores.json").write_text(json.dumps(scores))
    assert compare(before, after, tmp_path / "out", data) == 2
    assert "b.png, sample s2:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_same_command_may_run_again_and_another_comparison_is_refused(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert compare(before, after, out, data) == 0
    once = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "comparison.md").unlink()
    assert compare(before, after, out, data) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == once
    assert compare(after, before, out, data) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    assert compare(before, after, before, data) == 2
    assert "holds other files" in capsys.readouterr().err
    assert not (before / "run.json").exists()


def test_a_comparison_with_places_does_not_replace_one_without(
    tmp_path: Path, before: Path, after: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, places = tmp_path / "out", tmp_path / "places"
    assert compare(before, after, out, data) == 0
    once = {path.name: path.read_bytes() for path in out.iterdir()}
    for directory in (before, after):
        scores = json.loads((directory / "scores.json").read_text())
        (directory / "scores.json").write_text(json.dumps(scores | {"locate": True}))
    assert compare(before, after, out, data) == 2
    assert "mode cot there, cot with places now" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == once
    assert compare(before, after, places, data) == 0
    assert result(places)["locate"] and "locate" not in result(out)
    assert ", cot with places: " in (places / "comparison.md").read_text()
