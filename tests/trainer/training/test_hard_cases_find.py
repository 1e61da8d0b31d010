"""Finding hard cases with a scripted engine instead of vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from tests.trainer.coloured import make_data, thought
from tests.trainer.scripted_engine import Scripted, make_checkpoint
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.evaluate.by_checkpoint import evaluate
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.result import read_evaluation
from trainer.runs.run_directory import RunMismatch
from trainer.training.hard_cases.cases import Cases, HardCasesError
from trainer.training.hard_cases.find import find_hard_cases
from trainer.training.hard_cases.record import read_hard_cases, write_hard_cases
from trainer.training.hard_cases.summary import summary

pytestmark = pytest.mark.slow

LABELS = ("AC", "N", "B", "ABCD", "D", "BC", "A")
WRONG = {1: thought("A"), 3: "no answer", 5: thought("AB")}
"""s1, s3 and s5 are hard; an answer with a part of the label is right."""


def speak(number: int) -> str:
    return thought("A") if number == 0 else WRONG.get(number, thought(LABELS[number]))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", LABELS)


def test_questions_that_are_answered_wrong_are_hard(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = find_hard_cases(checkpoint, data, out, open_engine=Scripted(speak))
    assert cases == Cases(tuple(f"s{n}" for n in range(7)), ("s1", "s3", "s5"))
    assert json.loads((out / "hard-cases.json").read_text()) == {
        "format": 1,
        "checkpoint": read_manifest(checkpoint).digest,
        "data": data_digest(data, read_samples(data)),
        "samples": 7,
        "hard": 3,
        "easy": 4,
        "ids": ["s1", "s3", "s5"],
    }


def test_the_written_file_is_read_back_by_stage_2(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    cases = find_hard_cases(checkpoint, data, tmp_path / "out", open_engine=Scripted(speak))
    samples = read_samples(data)
    digests = {"checkpoint": read_manifest(checkpoint).digest, "data": data_digest(data, samples)}
    assert read_hard_cases(tmp_path / "out", samples, **digests) == cases


def test_the_summary_counts_by_dimension_severity_and_label(data: Path) -> None:
    # Severities 1, 2, 3 follow each other by number; s3 (ABCD) shows no defect.
    page = summary("scripted 1", read_samples(data), Cases(tuple(f"s{n}" for n in range(7)), ("s1", "s3", "s5")))
    lines = page.splitlines()
    assert lines[0] == "# Hard cases of scripted 1: 3 of 7 (43 %)"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    cells = {name: values for name, *values in rows}
    assert cells["physical shadow"] == ["0 of 2 (0 %)", "1 of 2 (50 %)", "1 of 2 (50 %)", "2 of 6 (33 %)"]
    assert cells["placement layout"] == ["-"] * 4
    assert [name for name in cells if name in LABELS] == ["A", "B", "D", "AC", "BC", "ABCD", "N"]
    assert (cells["ABCD"], cells["A"]) == (["1 of 1 (100 %)"], ["0 of 1 (0 %)"])


def test_an_interrupted_run_continues_and_has_no_hard_cases_before_its_end(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Unfinished, match="the engine died"):
        find_hard_cases(checkpoint, data, out, batch=2, open_engine=Scripted(speak, fail_after=4))
    assert not (out / "hard-cases.json").exists()
    second = Scripted(speak)
    assert find_hard_cases(checkpoint, data, out, open_engine=second).hard == ("s1", "s3", "s5")
    assert second.asked == [4, 5, 6]


def test_an_existing_evaluation_is_not_repeated(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(checkpoint, data, out, mode=Mode.COT, open_engine=Scripted(speak))
    second = Scripted(speak)
    assert find_hard_cases(checkpoint, data, out, open_engine=second).hard == ("s1", "s3", "s5")
    assert second.opened == 0


def test_an_existing_result_keeps_its_metrics_and_its_confidence_level(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate(
        checkpoint,
        data,
        out,
        mode=Mode.COT,
        confidence_level=0.9,
        metrics={"shop:two_letters": lambda _judged: True},
        open_engine=Scripted(speak),
    )
    before = {name: (out / name).read_bytes() for name in ("scores.json", "report.md")}
    find_hard_cases(checkpoint, data, out, open_engine=Scripted(speak))
    assert {name: (out / name).read_bytes() for name in before} == before


def test_an_evaluation_of_a_part_of_the_samples_is_completed_and_scored_again(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate(checkpoint, data, out, mode=Mode.COT, limit=3, open_engine=Scripted(speak))
    assert find_hard_cases(checkpoint, data, out, open_engine=Scripted(speak)).hard == ("s1", "s3", "s5")
    assert read_evaluation(out).data.evaluated == 7


def test_an_evaluation_in_direct_mode_is_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(checkpoint, data, out, mode=Mode.DIRECT, open_engine=Scripted(lambda number: LABELS[number]))
    with pytest.raises(RunMismatch, match="mode direct there, cot now"):
        find_hard_cases(checkpoint, data, out, open_engine=Scripted(speak))


def test_hard_cases_of_something_else_are_refused(data: Path, tmp_path: Path) -> None:
    samples = read_samples(data)
    digests = {"checkpoint": "sha256:1", "data": "sha256:2"}
    with pytest.raises(HardCasesError, match=r"cannot be read .*\. Run `python -m trainer hard-cases`"):
        read_hard_cases(tmp_path, samples, **digests)
    write_hard_cases(tmp_path, Cases(("s0", "s1"), ("s1",)), **digests)
    assert read_hard_cases(tmp_path, samples, **digests).hard == ("s1",)
    with pytest.raises(HardCasesError, match=r"another checkpoint \(sha256:1, not sha256:9\)"):
        read_hard_cases(tmp_path, samples, **{**digests, "checkpoint": "sha256:9"})
    with pytest.raises(HardCasesError, match=r"another data \(sha256:2, not sha256:9\)"):
        read_hard_cases(tmp_path, samples, **{**digests, "data": "sha256:9"})
    write_hard_cases(tmp_path, Cases(("x",), ("x",)), **digests)
    with pytest.raises(HardCasesError, match="samples that the data does not have, such as x"):
        read_hard_cases(tmp_path, samples, **digests)
    (tmp_path / "hard-cases.json").write_text('{"hard": ["s1"], "of": 7}')
    with pytest.raises(HardCasesError, match="written by another version"):
        read_hard_cases(tmp_path, samples, **digests)


def test_the_command_prints_the_summary_and_reports_faults_that_a_user_can_mend(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(checkpoint, data, out, mode=Mode.COT, open_engine=Scripted(speak))
    command = ["hard-cases", "--checkpoint", str(checkpoint), "--out", str(out), "--data"]
    assert main([*command, str(data)]) == 0
    assert (out / "hard-cases.md").read_text() in capsys.readouterr().out
    assert main([*command, str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
