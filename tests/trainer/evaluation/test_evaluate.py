"""The stage from samples to result, with a scripted engine instead of vLLM: questions, log, resuming, and files."""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Mode
from screening.calibration import Calibration, Curve
from screening.checkpoint.manifest import ImageContract, read_manifest, store_manifest
from screening.errors import CheckpointError
from screening.inference.generation import Step
from tests.trainer.coloured import make_data, thought
from tests.trainer.scripted_engine import LETTERS, SQUARE, Scripted, make_checkpoint
from trainer.__main__ import main
from trainer.data_directory import DataError, read_samples
from trainer.evaluation.evaluate import generate
from trainer.evaluation.evaluate.by_checkpoint import OpenEngine, evaluate
from trainer.evaluation.evaluate.command import add_arguments, run
from trainer.evaluation.evaluate.errors import EvaluationError, Unfinished
from trainer.evaluation.evaluate.generate import OfflineEngine, Pictures, Reply, answer_samples
from trainer.evaluation.evaluate.result import read_evaluation
from trainer.runs.json_log import LogError
from trainer.runs.markdown import table
from trainer.runs.run_directory import RunMismatch

pytestmark = pytest.mark.slow

LABELS = ("AC", "N", "B", "ABCD", "D", "BC", "A")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", LABELS)


def truth(number: int) -> str:
    """A chain of thought that is right about every picture."""
    return thought(LABELS[number])


def go(checkpoint: Path, data: Path, out: Path, engine: OpenEngine, **settings: Any) -> Any:
    return evaluate(checkpoint, data, out, open_engine=engine, **{"mode": Mode.COT, "batch": 2, **settings})


def test_a_model_that_is_always_right_scores_100(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = go(checkpoint, data, tmp_path / "out", Scripted(truth))
    assert result.scores.overall.correct.percent == 100
    assert result.scores.metrics["exact_match"].percent == 100
    assert result.scores.pictures.exact.percent == 100
    assert result.scores.balance.distance == 0
    assert (result.data.samples, result.data.evaluated) == (7, 7)


def test_right_wrong_and_unreadable_answers_as_counted_by_hand(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    def speak(number: int) -> str:
        return {0: "<think>I saw.</think><answer>c</answer>", 1: "", 2: "<think>x", 3: "no"}.get(number, truth(number))

    out = tmp_path / "out"
    result = go(checkpoint, data, out, Scripted(speak))
    assert (result.scores.overall.correct.hits, result.scores.overall.correct.n) == (4, 7)
    assert {reason.value: one.hits for reason, one in result.scores.unreadable_reasons.items()} == {
        "empty": 1,
        "no_think": 2,
    }
    first, second = (json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()[:2])
    assert (first["id"], first["label"], first["options"], first["correct"]) == ("s0", "AC", "C", True)
    assert (second["options"], second["choice"], second["confidence"], second["correct"]) == (None, None, 0.0, False)
    assert second["unreadable"]["reason"] == "empty"


def test_findings_are_logged_with_their_dimensions(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    go(checkpoint, data, tmp_path / "out", Scripted(truth), limit=1)
    logged = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert [(one["option"], one["dimensions"]) for one in logged["findings"]] == [
        ("A", []),
        ("B", ["physical_shadow"]),
        ("C", []),
        ("D", ["physical_shadow"]),
    ]


@contextmanager
def sure_of_a_and_c(*_: object) -> Iterator[OfflineEngine]:
    """Says `AC` in direct mode, and C with probability 0.9."""

    def step(letter: str, **probabilities: float) -> Step:
        named = {LETTERS.letters[name]: math.log(value) for name, value in probabilities.items()}
        return Step(letter, LETTERS.letters[letter], named)

    steps = (step("A", A=0.6, B=0.3), step("C", B=0.05, C=0.9))
    yield OfflineEngine(lambda asked: [Reply("AC", "stop", steps, 100, 2) for _ in asked], LETTERS)


def test_choice_and_confidence_come_from_the_letters_in_direct_mode(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    result = go(checkpoint, data, tmp_path / "out", sure_of_a_and_c, mode=Mode.DIRECT, limit=1)
    logged = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert (logged["options"], logged["choice"]) == ("AC", "C")
    assert (logged["confidence"], logged["probability"]) == (pytest.approx(0.9), pytest.approx(0.9))
    assert result.scores.choice.percent == 100
    assert result.reliability.brier == pytest.approx(0.01)
    assert result.uncalibrated is None
    assert result.scores.pictures.stated.hits == 0


def test_a_calibrated_confidence_is_reported_beside_the_bare_probability(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    even = Calibration(option=Curve(knots=((-15.0, 0.5), (15.0, 0.500001))))
    store_manifest(read_manifest(checkpoint).model_copy(update={"calibration": {Mode.DIRECT: even}}), checkpoint)
    result = go(checkpoint, data, tmp_path / "out", sure_of_a_and_c, mode=Mode.DIRECT, limit=1)
    logged = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert (logged["confidence"], logged["probability"]) == (pytest.approx(0.5, abs=1e-6), pytest.approx(0.9))
    assert result.reliability.expected_calibration_error == pytest.approx(0.5, abs=1e-6)
    assert result.uncalibrated.expected_calibration_error == pytest.approx(0.1)
    assert "| not calibrated |" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "confidence.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_on_a_frozen_test_set_is_marked(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert main(["split", "--data", str(data), "--shares", "0,1,0,0", "--out", str(tmp_path / "split")]) == 0
    assert go(checkpoint, tmp_path / "split" / "testing", tmp_path / "test", Scripted(truth)).data.frozen
    assert not go(checkpoint, data, tmp_path / "out", Scripted(truth)).data.frozen


def test_the_result_is_read_back_and_names_the_evaluated_model(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = go(checkpoint, data, out, Scripted(truth), confidence_level=0.9)
    assert read_evaluation(out) == result
    assert result.checkpoint.digest.startswith("sha256:")
    assert result.data.digest.startswith("sha256:")
    assert result.scores.confidence_level == 0.9
    assert "pillow" in result.versions
    report = (out / "report.md").read_text()
    assert "| overall " in report
    assert "physical shadow" in report
    assert result.checkpoint.digest in report
    assert sorted(path.name for path in out.iterdir()) == [
        "confidence.png",
        "predictions.jsonl",
        "report.md",
        "run.json",
        "scores.json",
    ]


def test_an_evaluation_that_did_not_end_has_no_result(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Unfinished, match="the engine died"):
        go(checkpoint, data, tmp_path / "out", Scripted(truth, fail_after=4))
    with pytest.raises(EvaluationError, match="Run `trainer evaluate` to its end"):
        read_evaluation(tmp_path / "out")


def test_an_interrupted_run_continues_where_it_stopped(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    whole = go(checkpoint, data, tmp_path / "whole", Scripted(truth))
    with pytest.raises(EvaluationError, match="the engine died"):
        go(checkpoint, data, tmp_path / "out", Scripted(truth, fail_after=4))
    second = Scripted(truth)
    resumed = go(checkpoint, data, tmp_path / "out", second)
    assert second.asked == [4, 5, 6]
    assert resumed.scores == whole.scores


def test_a_log_truncated_anywhere_gives_the_same_result(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = go(checkpoint, data, out, Scripted(truth))
    log = out / "predictions.jsonl"
    written = log.read_bytes()
    for length in range(0, len(written), 1009):  # a prime, so that lines are cut at different places
        log.write_bytes(written[:length])
        again = Scripted(truth)
        assert go(checkpoint, data, out, again).scores == whole.scores
        assert again.asked == list(range(written[:length].count(b"\n"), len(LABELS)))
        assert log.read_bytes() == written


def test_a_complete_evaluation_is_scored_again_without_an_engine(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    go(checkpoint, data, tmp_path / "out", Scripted(truth))
    second = Scripted(truth)
    again = go(checkpoint, data, tmp_path / "out", second, confidence_level=0.8)
    assert second.opened == 0
    assert again.scores.confidence_level == 0.8


def test_a_limited_evaluation_can_be_extended(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    first, second = Scripted(truth), Scripted(truth)
    limited = go(checkpoint, data, tmp_path / "out", first, limit=3)
    assert (limited.data.samples, limited.data.evaluated) == (7, 3)
    assert "3 samples (the first of 7)" in (tmp_path / "out" / "report.md").read_text()
    assert go(checkpoint, data, tmp_path / "out", second).data.evaluated == 7
    assert (first.asked, second.asked) == ([0, 1, 2], [3, 4, 5, 6])


def test_the_report_names_the_products_if_they_have_several_samples(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    plain = go(checkpoint, data, tmp_path / "plain", Scripted(truth))
    assert (
        plain.data.products is None
        and "products" not in json.loads((tmp_path / "plain" / "scores.json").read_text())["data"]
    )
    assert "7 samples, 95% intervals" in (tmp_path / "plain" / "report.md").read_text()
    lines = [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]
    lines = [line | {"product": f"p{number // 4}"} for number, line in enumerate(lines)]
    (data / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    found = go(checkpoint, data, out, Scripted(truth))
    assert found.data.products == 2 and read_evaluation(out).data == found.data
    assert found.scores.overall.correct.low < plain.scores.overall.correct.low
    report = (out / "report.md").read_text()
    assert "7 samples of 2 products, 95% intervals" in report and "count as fewer in the intervals" in report
    logged = [json.loads(line)["product"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert logged == ["p0"] * 4 + ["p1"] * 3


class NotLooking(Scripted):
    """Gives every question the same answer, so the pictures need not be those of its sample."""

    def reply(self, _: Pictures) -> Reply:
        return Reply(thought("A"), "stop", (), prompt_tokens=100, completion_tokens=10)


def test_samples_without_a_product_count_as_one_if_they_show_one_original(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) | {"product": ""} for line in (data / "samples.jsonl").read_text().splitlines()]
    (data / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    original = (data / "pictures/s0/original.png").read_bytes()
    for number in range(1, 4):
        (data / f"pictures/s{number}/original.png").write_bytes(original)
    assert main(["split", "--data", str(data), "--out", str(tmp_path / "split"), "--shares", "0,1,0,0"]) == 0
    result = go(checkpoint, tmp_path / "split" / "testing", tmp_path / "out", NotLooking(truth))
    assert (result.data.evaluated, result.data.products) == (7, 4)


def test_another_evaluation_is_not_mixed_in(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(checkpoint, data, out, Scripted(truth))
    with pytest.raises(RunMismatch, match=r"other settings or data \(checkpoint sha256:"):
        go(make_checkpoint(tmp_path / "other", "other weights"), data, out, Scripted(truth))
    with pytest.raises(RunMismatch, match=r"other settings or data \(data sha256:"):
        go(checkpoint, make_data(tmp_path / "more", ("A", "B")), out, Scripted(truth))
    with pytest.raises(RunMismatch, match=r"\(mode cot there, direct now\)"):
        go(checkpoint, data, out, Scripted(truth), mode=Mode.DIRECT)


def test_of_two_evaluations_that_start_at_once_in_one_directory_one_gets_it(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(make_checkpoint(tmp_path / "other", "other weights"), data, tmp_path / "first", Scripted(truth), limit=1)
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        """The other evaluation claims the directory after this one found it empty."""
        shutil.copy(tmp_path / "first" / "run.json", target)
        link(source, target)

    monkeypatch.setattr("os.link", overtaken)
    engine = Scripted(truth)
    with pytest.raises(RunMismatch, match=r"checkpoint sha256:"):
        go(checkpoint, data, tmp_path / "out", engine)
    assert engine.opened == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_a_directory_with_other_files_is_left_alone(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunMismatch, match=r"thesis\.txt"):
        go(checkpoint, data, tmp_path / "out", Scripted(truth))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_two_evaluations_do_not_write_one_log(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(checkpoint, data, out, Scripted(truth), limit=1)
    with (out / "predictions.jsonl").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LogError, match="being written by another process"):
            go(checkpoint, data, out, Scripted(truth))


def test_a_log_damaged_in_its_middle_is_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(checkpoint, data, out, Scripted(truth))
    log = out / "predictions.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"id":"s1"', b'"id":s1', 1))
    with pytest.raises(LogError, match=r"predictions\.jsonl, line 2 is damaged or not a prediction"):
        go(checkpoint, data, out, Scripted(truth))


def test_a_changed_checkpoint_is_not_evaluated(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").write_text("WEIGHTS")
    with pytest.raises(CheckpointError, match="sha256 differs"):
        go(checkpoint, data, tmp_path / "out", Scripted(truth))
    assert not (tmp_path / "out").exists()


def test_a_damaged_picture_is_named(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    picture = data / "pictures/s2/b.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DataError, match=r"generated\.1\.file: .*pictures/s2/b\.png: .*damaged"):
        go(checkpoint, data, tmp_path / "out", Scripted(truth))


def test_pictures_are_decoded_one_batch_ahead_and_no_further(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    load = generate.load_pictures

    def counting(directory: Path, sample: Any, image: ImageContract) -> Pictures:
        begun.append(sample.id)
        return load(directory, sample, image)

    monkeypatch.setattr(generate, "load_pictures", counting)
    engine = Scripted(truth)
    batches = answer_samples(OfflineEngine(engine.ask, LETTERS), read_samples(data), data, image=SQUARE, batch=2)
    next(batches)
    assert set(begun) <= {"s0", "s1", "s2", "s3"}
    rest = list(batches)
    assert [len(batch) for batch in rest] == [2, 2, 1]
    assert engine.asked == list(range(7))


def test_the_report_of_direct_mode_says_nothing_about_verdicts(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    go(checkpoint, data, tmp_path / "out", Scripted(lambda number: LABELS[number]), mode=Mode.DIRECT)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "held back" in report
    assert "named" not in report
    assert "verdict" not in report


def test_tables_line_up_as_plain_text() -> None:
    lines = table(["", "n"], [["a", "1"], ["longer", "1000"]]).splitlines()
    assert lines == ["|        |    n |", "|--------|-----:|", "| a      |    1 |", "| longer | 1000 |"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="evaluate")
    add_arguments(made)
    return made


@pytest.mark.parametrize(
    "wrong",
    [["--limit", "0"], ["--batch", "-1"], ["--mode", "loud"], ["--confidence-level", "95"], ["--limit", "some"]],
)
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(["--checkpoint", "c", "--data", "d", "--out", "o", *wrong])
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_fault_that_a_user_can_mend_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--checkpoint", str(checkpoint), *places]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert f"is {tmp_path / 'nowhere'} a data directory?" in said.err


def test_a_finished_evaluation_is_printed(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    go(checkpoint, data, out, Scripted(truth))
    assert run(parser().parse_args(["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out)])) == 0
    printed = capsys.readouterr().out
    assert (out / "report.md").read_text().removesuffix("\n![confidence](confidence.png)\n") in printed
    assert "confidence.png" in printed
