"""Samples without a label, and records in the short form."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.trainer.data.split_data import many, report, split, unlabelled, where, write
from trainer.data_directory import read_samples

pytestmark = pytest.mark.slow


def test_samples_without_a_label_go_to_pseudo_label_and_exploration(tmp_path: Path) -> None:
    labelled = write(tmp_path / "a", *many(0, 40))
    without = write(tmp_path / "b", *(unlabelled(f"u{number}", f"q{number}") for number in range(60)))
    assert split(tmp_path / "out", labelled, without, shares="3,1,1,2") == 0
    found = where(tmp_path / "out")
    places = Counter(found[f"u{number}"] for number in range(60))
    assert set(places) == {"pseudo-label", "exploration"}
    assert places["exploration"] > places["pseudo-label"]
    splits = report(tmp_path / "out")["splits"]
    assert sum(one["unlabelled"] for one in splits.values()) == 60
    assert all(sum(one["labels"].values()) == one["samples"] - one["unlabelled"] for one in splits.values())


def test_a_sample_without_a_label_never_shows_a_product_of_the_test_set(tmp_path: Path) -> None:
    records = [*many(0, 30), *(unlabelled(f"u{number}", f"p{number}") for number in range(30))]
    assert split(tmp_path / "out", write(tmp_path / "data", *records), shares="2,1,1,0") == 0
    found = where(tmp_path / "out")
    expected = {"training": "pseudo-label", "pseudo-label": "pseudo-label", "testing": None}
    assert {found[f"s{number}-0"] for number in range(30)} == set(expected)
    for number in range(30):
        assert found.get(f"u{number}") == expected[found[f"s{number}-0"]]
    tested = {name for name in (f"u{n}" for n in range(30)) if name not in found}
    assert set(report(tmp_path / "out")["left_out"]) == tested


def test_samples_without_a_label_stay_where_they_are_when_more_data_comes(tmp_path: Path) -> None:
    first = write(tmp_path / "a", *many(0, 20), *(unlabelled(f"u{n}", f"p{n}") for n in range(25)))
    assert split(tmp_path / "out", first, shares="2,1,1,1") == 0
    before = where(tmp_path / "out")
    more = write(tmp_path / "b", *many(20, 40), *(unlabelled(f"v{n}", f"p{n}") for n in range(40)))
    assert split(tmp_path / "out", first, more, shares="2,1,1,1") == 0
    after = where(tmp_path / "out")
    assert before.items() <= after.items()
    # Products that were seen without a label in pseudo-label or exploration are not tested on later.
    for number in range(20, 25):
        assert after[f"s{number}-0"] == before[f"u{number}"]


def test_a_collection_without_any_label_needs_no_test_set(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *(unlabelled(f"u{number}", f"q{number}") for number in range(10)))
    assert split(tmp_path / "out", data, shares="1,1,1,1") == 0
    assert set(where(tmp_path / "out").values()) <= {"pseudo-label", "exploration"}
    assert report(tmp_path / "out")["frozen"] is None


def test_samples_without_a_label_need_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 10), unlabelled("u", "q"))
    assert split(tmp_path / "out", data, shares="1,1,0,0") == 2
    assert "some samples have no label, and the shares of pseudo-label and exploration are both 0" in (
        capsys.readouterr().err
    )


def test_lines_as_people_write_them_become_full_ones(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 20))
    lines = []
    for one in many(0, 20):
        files = [picture["file"] for picture in one["generated"]]
        short = {"id": one["id"], "product": one["product"], "original": one["original"]["file"], "generated": files}
        lines.append(json.dumps({**short, "label": ",".join(one["label"]).lower()}))
    (data / "samples.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode() + b"\n\n")
    assert split(tmp_path / "out", data) == 0
    assert split(tmp_path / "out", data) == 0
    for name in ("training", "testing", "pseudo-label"):
        for sample in read_samples(tmp_path / "out" / name):
            assert sample.original.file.startswith("pictures/")
            assert not sample.dimensions_known or sample.label == "ABCD"
