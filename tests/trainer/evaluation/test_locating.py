"""`evaluate --locate`: how well a model points at the issues that it finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Answer, Finding, Mode, Region, with_boxes
from screening.boxes import Box, Frame
from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import read_manifest
from screening.prompt import locating as able
from screening.task import Dimension
from tests.trainer.coloured import make_data, sample_of, thought
from tests.trainer.scripted_engine import Scripted, make_checkpoint
from trainer.__main__ import main
from trainer.evaluation.calibrate.evidence import gather
from trainer.evaluation.calibrate.fit import CalibrationError
from trainer.evaluation.evaluate.by_checkpoint import evaluate
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.generate import OfflineEngine
from trainer.evaluation.evaluate.locating import locating
from trainer.evaluation.evaluate.result import read_evaluation
from trainer.judged import Judged
from trainer.records import Sample
from trainer.release.card import card
from trainer.runs.run_directory import RunMismatch

pytestmark = pytest.mark.slow

TRUE = Box(0.2, 0.4, 0.6, 0.8)
OFF_CENTRE, NEAR, FAR = Box(0.1, 0.3, 0.6, 0.8), Box(0.0, 0.0, 0.45, 0.85), Box(0.7, 0.0, 0.9, 0.1)
SHADOW = Dimension.SHADOW


def with_defects(sample: Sample) -> Sample:
    """Every faulty picture has its shadow at `TRUE`."""
    line = sample.model_dump(mode="json")
    for picture in line["generated"]:
        if not picture["usable"]:
            defect = {
                "dimension": SHADOW,
                "kind": "missing",
                "severity": picture["severity"],
                "comment": "",
                "box": TRUE,
            }
            picture["defects"] = [defect]
    return Sample.model_validate(line)


def said(**regions: Box | None) -> Answer:
    """Options that are called faulty, and where."""
    findings = [
        Finding(
            option,
            frozenset({SHADOW} if option in regions else set()),
            "",
            (Region(SHADOW, box),) if (box := regions.get(option)) else (),
        )
        for option in "ABCD"
    ]
    return Answer(frozenset("ABCD") - regions.keys(), "", tuple(findings))


def test_shares_are_those_counted_by_hand() -> None:
    sample = with_defects(sample_of("s", "D"))  # A, B and C are faulty
    judged = [
        Judged(sample, said(A=TRUE, B=OFF_CENTRE, C=FAR)),
        Judged(sample, said(A=NEAR, B=None, D=TRUE)),  # C is overlooked, and D is a false alarm
    ]
    assert (round(TRUE.iou(OFF_CENTRE), 2), round(TRUE.iou(NEAR), 2)) == (0.64, 0.23)
    found = locating(judged)
    assert (found.overall.centre.hits, found.overall.overlap.hits, found.overall.centre.n) == (3, 2, 5)
    assert found.dimensions[SHADOW] == found.kinds["physical_shadow/missing"] == found.overall
    assert found.dimensions[Dimension.LAYOUT].centre.n == 0
    assert (found.without_box.hits, found.without_box.n) == (1, 5)


def test_faults_whose_place_nobody_knows_do_not_count() -> None:
    assert locating([Judged(sample_of("s", "D"), said(A=TRUE))]).overall.centre.n == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = make_data(tmp_path / "data", ("AC", "N", "B"))
    lines = [Sample.model_validate_json(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    located = "".join(with_defects(sample).model_dump_json() + "\n" for sample in lines)
    (directory / "samples.jsonl").write_text(located)
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = make_checkpoint(tmp_path / "checkpoint")
    manifest = read_manifest(directory)
    fields = manifest.model_dump(exclude={"files", "created", "format"}) | {"prompt": able(manifest.prompt)}
    write_manifest(directory, **fields)
    return directory


class Pointing(Scripted):
    """A model that points when it is asked to."""

    @contextmanager
    def __call__(self, *arguments: Any, locate: bool = False) -> Iterator[OfflineEngine]:
        assert locate
        with super().__call__(*arguments) as engine:
            yield engine


def pointing(number: int) -> str:
    """Right about every picture. The pictures have 48 x 36 pixels, and the model sees them padded."""
    label = ("AC", "N", "B")[number]
    box = Frame((48, 36)).on_canvas(TRUE)
    reasoning, end, answer = thought(label).partition("</think>")
    return with_boxes(reasoning, {option: [box] for option in "ABCD" if option not in label}) + end + answer


def test_places_are_scored_on_the_pictures_as_they_are_in_the_data(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = evaluate(checkpoint, data, out, mode=Mode.COT, open_engine=Pointing(pointing), locate=True)
    assert result.locating is not None and result.scores.overall.correct.percent == 100
    assert (result.locating.overall.centre.hits, result.locating.overall.overlap.hits) == (9, 9)
    assert read_evaluation(out) == result
    region = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])["findings"][1]["regions"][0]
    assert region["box"] == pytest.approx(TRUE, abs=0.011)
    page = (out / "report.md").read_text()
    assert "## Where the issues are" in page and "cot with boxes: 100.00 %" in page.splitlines()[0]
    assert "physical_shadow/missing" in page and "Issues without a box: 0.00 %. Boxes that were dropped: 0." in page
    assert "Where the issues are" in card(read_manifest(checkpoint), [result])
    again = evaluate(checkpoint, data, out, mode=Mode.COT, open_engine=Pointing(str), locate=True)
    assert again.locating == result.locating
    with pytest.raises(RunMismatch, match="locate True there, nothing now"):
        evaluate(checkpoint, data, out, mode=Mode.COT, open_engine=Scripted(pointing))
    with pytest.raises(CalibrationError, match="with --locate"):
        gather([out], read_manifest(checkpoint))


def test_an_evaluation_without_places_keeps_its_form(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(checkpoint, data, out, mode=Mode.COT, open_engine=Scripted(lambda n: thought(("AC", "N", "B")[n])))
    for name in ("scores.json", "predictions.jsonl", "run.json"):
        assert "locat" not in (out / name).read_text() and "regions" not in (out / name).read_text()


def test_a_checkpoint_that_cannot_point_is_refused(data: Path, tmp_path: Path) -> None:
    plain = make_checkpoint(tmp_path / "plain")
    with pytest.raises(EvaluationError, match="cannot say where issues are"):
        evaluate(plain, data, tmp_path / "out", mode=Mode.COT, open_engine=Scripted(str), locate=True)


def test_data_without_places_are_refused_before_an_engine_starts(checkpoint: Path, tmp_path: Path) -> None:
    plain = make_data(tmp_path / "plain", ("AC",))
    with pytest.raises(EvaluationError, match="nothing to compare boxes with"):
        evaluate(checkpoint, plain, tmp_path / "out", mode=Mode.COT, open_engine=Pointing(str), locate=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--checkpoint", "c", "--mode", "direct"], "--locate needs --mode cot"),
        (["--endpoint", "http://localhost/v1", "--model", "m"], "--locate is only for --checkpoint"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    assert main(["evaluate", "--locate", "--data", "d", "--out", str(tmp_path / "o"), *options]) == 2
    assert message in capsys.readouterr().err
