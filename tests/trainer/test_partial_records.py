"""Samples of which only the label or the verdicts are known, or neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.record_files import bare, in_full, write
from trainer.data_directory import (
    DataError,
    read_any_samples,
    read_samples,
)
from trainer.records import Sample, Unlabelled


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("AC", "AC"),
        ("CA", "AC"),
        ("A,C", "AC"),
        ("a c", "AC"),
        (" A; c ", "AC"),
        ("A/C", "AC"),
        ("A|C", "AC"),
        ("A & C", "AC"),
        ("AAC", "AC"),
        (["C", "A"], "AC"),
        ("N", "N"),
        ("n", "N"),
        ("None", "N"),
        ("NONE ", "N"),
        (["N"], "N"),
        ("abcd", "ABCD"),
    ],
)
def test_a_label_alone_suffices_in_any_form_that_can_only_mean_one_thing(
    tmp_path: Path, written: object, label: str
) -> None:
    write(tmp_path, in_full(bare()))
    (tmp_path / "samples.jsonl").write_text(json.dumps(bare(label=written)) + "\n")
    (sample,) = read_samples(tmp_path)
    assert sample.label == label
    assert sample.options == frozenset(label) - {"N"}
    assert [one.option for one in sample.generated] == list("ABCD")
    assert [one.usable for one in sample.generated] == [option in label for option in "ABCD"]
    assert all(one.severity == 0 and not one.dimensions for one in sample.generated)
    assert sample.dimensions_known == (label == "ABCD")


def test_verdicts_alone_suffice_and_their_label_follows(tmp_path: Path) -> None:
    line = in_full(bare())
    for picture, usable in zip(line["generated"], (False, True, False, True), strict=True):
        picture["usable"] = usable
    assert read_samples(write(tmp_path, line))[0].label == "BD"


def test_verdicts_on_some_pictures_only_are_refused(tmp_path: Path) -> None:
    line = in_full(bare())
    line["generated"][0]["usable"] = True
    with pytest.raises(DataError, match="line 1: only some generated pictures have 'usable'"):
        read_samples(write(tmp_path, line))


def test_null_is_the_same_as_a_field_that_is_left_out(tmp_path: Path) -> None:
    line = in_full(bare(label="A", product="p"))
    for picture in line["generated"]:
        picture |= {"usable": None, "dimensions": None}
    assert read_samples(write(tmp_path, line))[0].label == "A"


def test_a_sample_of_which_only_the_label_is_known_survives_a_round_trip(tmp_path: Path) -> None:
    (sample,) = read_samples(write(tmp_path, in_full(bare(label="B"))))
    assert Sample.model_validate_json(sample.model_dump_json()) == sample
    assert Sample.model_validate(sample.model_dump()) == sample


def test_samples_without_a_label_are_a_kind_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, in_full(bare("s1", label="A")), in_full(bare("s2", label=None)), in_full(bare("s3")))
    kinds = [type(sample) for sample in read_any_samples(tmp_path)]
    assert kinds == [Sample, Unlabelled, Unlabelled]
    with pytest.raises(DataError, match=r"line 2, label: missing\. `trainer split` puts"):
        read_samples(tmp_path)


def test_null_verdicts_count_as_missing(tmp_path: Path) -> None:
    line = in_full(bare("s1"))
    for picture in line["generated"]:
        picture |= {"usable": None, "dimensions": [], "severity": 0, "comment": ""}
    (sample,) = read_any_samples(write(tmp_path, line | {"label": None, "reasoning": ""}))
    assert isinstance(sample, Unlabelled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line | {"reasoning": "I observed"}, "line 1: 'reasoning' is given without a label; add 'label'"),
        (lambda line: line["generated"][1].update(comment="floats"), "line 1: 'comment' is given without a label"),
        (
            lambda line: line["generated"][3].update(dimensions=["physical_shadow"]),
            "line 1: 'dimensions' is given without",
        ),
        (
            lambda line: [one.update(usable=1) for one in line["generated"]],
            "usable must be true or false, not 1",
        ),
        (lambda line: [one.update(usable="yes") for one in line["generated"]], "line 1: usable must be true or false"),
        (lambda line: line["generated"].reverse(), "A, B, C, D in this order, not D, C, B, A"),
        (lambda line: line["generated"].pop(), "not 3"),
    ],
)
def test_fields_that_need_a_label_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    line = in_full(bare("s1"))
    line["generated"] = [
        dict(picture, option=option) for picture, option in zip(line["generated"], "ABCD", strict=True)
    ]
    write(tmp_path, line)
    changed = change(line)
    line = changed if isinstance(changed, dict) and "generated" in changed else line
    (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=message):
        read_any_samples(tmp_path)
