"""Annotation from the truth: without planted errors it is unchanged; with them it is wrong by the paper's score, and
consistent."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Answer, Mode, parse, render
from screening.task import OPTIONS, Dimension
from trainer.__main__ import main
from trainer.data.annotate.ground_truth import GroundTruth
from trainer.data.annotate.method import Accepted, Rejected
from trainer.data.render.dataset import Order, write_dataset
from trainer.data_directory import read_samples
from trainer.judged import correct
from trainer.records import Generated, Original, Sample

COUNT = 16


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("rendered") / "data"
    write_dataset(Order(COUNT, 5, 64, (0.2, 0.4, 0.4)), out)
    return out


def made(name: str, label: str, **original: Any) -> Sample:
    """A sample each of whose bad pictures shows one dimension."""
    pictures = []
    for option, dimension in zip(OPTIONS, Dimension, strict=True):
        bad = option not in label
        pictures.append(
            Generated(
                file=f"{option}.jpg",
                option=option,
                usable=not bad,
                dimensions=frozenset({dimension} if bad else ()),
                severity=2 if bad else 0,
                comment=f"it has a fault of {dimension.short}" if bad else "it is fine",
            )
        )
    return Sample(
        id=name,
        product="p",
        original=Original(file="original.jpg", **original),
        generated=tuple(pictures),
        label=label,
    )


def annotated(sample: Sample, *, seed: int = 0, error_rate: float = 0.0) -> Sample:
    step = GroundTruth(seed, error_rate).annotate(sample)
    assert isinstance(step, Accepted)
    return step.sample


def agrees_with_itself(sample: Sample) -> bool:
    """Label, verdicts and the reasoning as the parser reads it say the same, and the record is a valid one."""
    read = parse(render(Answer(sample.options, sample.reasoning), Mode.COT), Mode.COT)
    assert isinstance(read, Answer)
    verdicts = {finding.option: finding.dimensions for finding in read.findings}
    assert Sample.model_validate_json(sample.model_dump_json()) == sample
    return (
        read.options == sample.options
        and verdicts == {picture.option: picture.dimensions for picture in sample.generated}
        and sample.reasoning.endswith(f"so I ultimately chose {sample.label}.")
    )


@pytest.mark.slow
def test_without_errors_rendered_samples_come_out_as_they_went_in(rendered, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["annotate", "ground-truth", "--data", str(rendered), "--out", str(out)]) == 0
    assert read_samples(out) == read_samples(rendered)
    assert f"{COUNT} of {COUNT} samples accepted" in capsys.readouterr().out
    report = json.loads((out / "annotation.json").read_text())
    assert report["agreement"]["correct"]["hits"] == report["agreement"]["exact"]["hits"] == COUNT
    assert report["corrupted"]["hits"] == 0
    assert report["teacher"] is None


def test_reasoning_is_added_to_samples_without_it(rendered):
    for sample in read_samples(rendered):
        bare = sample.model_copy(update={"reasoning": ""})
        assert agrees_with_itself(annotated(bare))
        assert annotated(bare).reasoning.startswith(f"The original is {sample.original.caption}. I observed <A>")


LABELS = ["N", *("".join(letters) for n in range(1, 5) for letters in combinations(OPTIONS, n))]


@pytest.mark.parametrize("label", LABELS)
def test_a_corrupted_sample_is_wrong_by_the_papers_score_and_agrees_with_itself(label):
    answers = set()
    for number in range(60):
        sample = made(f"s{number}", label, attributes={"number": "7", "cap": "red"} if number % 2 else {})
        result = annotated(sample, error_rate=1.0)
        assert not correct(result.options, sample.options)
        assert agrees_with_itself(result)
        assert result.files == sample.files
        answers.add(result.label)
    assert answers == {"N"} if label == "ABCD" else len(answers) > 1


def test_mistakes_are_of_all_three_kinds():
    """A real defect dropped, one invented in a normal picture, a dimension swapped."""
    dropped = invented = swapped = 0
    for number in range(300):
        sample = made(f"s{number}", "AB")
        for before, after in zip(sample.generated, annotated(sample, error_rate=1.0).generated, strict=True):
            dropped += not before.usable and after.usable
            invented += before.usable and not after.usable
            swapped += not before.usable and not after.usable and before.dimensions != after.dimensions
    assert dropped > 200
    assert invented > 100
    assert swapped > 50


def test_subtle_defects_are_overlooked_more_often_than_gross_ones():
    dropped = {1: 0, 3: 0}
    for number in range(300):
        sample = made(f"s{number}", "AB")
        pictures = [
            picture.model_copy(update={"severity": 1 if picture.option == "C" else 3})
            if not picture.usable
            else picture
            for picture in sample.generated
        ]
        sample = sample.model_copy(update={"generated": tuple(pictures)})
        for before, after in zip(sample.generated, annotated(sample, error_rate=1.0).generated, strict=True):
            if not before.usable and after.usable:
                dropped[before.severity] += 1
    assert dropped[1] > 2 * dropped[3] > 0


def test_an_invented_defect_is_of_a_part_that_the_product_has():
    comments = {True: set[str](), False: set[str]()}
    for number in range(400):
        cap = bool(number % 2)
        attributes = {"number": "7", "cap": "red" if cap else "none", "mark": "none"}
        for picture in annotated(made(f"s{number}", "ABCD", attributes=attributes), error_rate=1.0).generated:
            comments[cap].add(picture.comment)
    assert any("cap" in comment for comment in comments[True])
    assert not any("cap" in comment for comment in comments[False])
    assert not any("mark" in comment for one in comments.values() for comment in one)
    assert "the number differs" in comments[False]


@pytest.mark.slow
def test_the_share_of_errors_is_the_rate_and_a_higher_rate_keeps_the_same_ones():
    samples = [made(f"s{number}", "AC") for number in range(2000)]
    wrong = {
        rate: {sample.id for sample in samples if GroundTruth(3, rate).corrupts(sample)}
        for rate in (0.0, 0.3, 0.6175, 1.0)
    }
    assert not wrong[0.0]
    assert wrong[0.3] < wrong[0.6175] < wrong[1.0]
    assert 0.59 < len(wrong[0.6175]) / 2000 < 0.65
    assert len(wrong[1.0]) == 2000


@pytest.mark.slow
def test_seed_and_id_alone_decide_the_result(rendered, tmp_path, repository):
    def words(name: str, *more: str) -> list[str]:
        files = ("--data", str(rendered), "--out", str(tmp_path / name))
        return ["annotate", "ground-truth", *files, "--error-rate", "0.6175", *more]

    def result(name: str) -> dict[str, Sample]:
        return {sample.id: sample for sample in read_samples(tmp_path / name)}

    assert main(words("whole", "--seed", "4")) == 0
    assert main(words("part", "--seed", "4", "--limit", "6")) == 0
    assert main(words("other", "--seed", "5")) == 0
    whole = result("whole")
    assert len(result("part")) == 6
    assert result("part").items() <= whole.items()
    assert result("other") != whole
    # In another process, which hashes strings differently.
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words("whole", "--seed", "4")], cwd=repository, check=False
    )
    assert done.returncode == 0
    assert result("whole") == whole
    report = json.loads((tmp_path / "whole" / "annotation.json").read_text())
    truth = {sample.id: sample for sample in read_samples(rendered)}
    wrong = sum(not correct(sample.options, truth[name].options) for name, sample in whole.items())
    assert 0 < wrong == report["corrupted"]["hits"] == COUNT - report["agreement"]["correct"]["hits"]


def test_another_rate_in_the_same_directory_is_refused(rendered, tmp_path, capsys):
    words = ["annotate", "ground-truth", "--data", str(rendered), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    before = (tmp_path / "out/samples.jsonl").read_bytes()
    assert main([*words, "--error-rate", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (tmp_path / "out/samples.jsonl").read_bytes() == before


def test_a_comment_in_the_words_of_the_grammar_rejects_its_sample():
    sample = made("s", "AC")
    comment = "it stands before <B> here"
    pictures = (sample.generated[0].model_copy(update={"comment": comment}), *sample.generated[1:])
    step = GroundTruth(0).annotate(sample.model_copy(update={"generated": pictures}))
    assert isinstance(step, Rejected)
    assert step.fault.reason == "composition"
