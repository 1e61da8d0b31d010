"""Dividing data: by product, without a leak, the same every time, with a test set that never changes again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.contracts import SMALL
from tests.trainer.data.split_data import ids, many, record, report, split, tree, where, write
from trainer.data.render.dataset import Order, write_dataset
from trainer.data.split.divide import SPLIT_NAME
from trainer.data_directory import data_digest, read_samples
from trainer.products import product_of

pytestmark = pytest.mark.slow


def test_all_samples_of_a_product_land_together_and_the_directories_are_data_directories(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 20))
    out = tmp_path / "out"
    assert split(out, data) == 0
    products: dict[str, set[str]] = {}
    for name in ("training", "testing", "pseudo-label"):
        samples = read_samples(out / name)
        assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)
        for sample in samples:
            products.setdefault(sample.product, set()).add(name)
            for file, source in zip(sample.files, record(sample.id, "")["generated"], strict=False):
                assert (out / name / file).read_bytes().startswith(b"pixels of " + sample.id.encode()), source
    assert len(products) == 20
    assert all(len(names) == 1 for names in products.values())
    assert (out / "exploration" / "samples.jsonl").read_bytes() == b""


def test_split_json_names_digests_and_label_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 20))
    out = tmp_path / "out"
    assert split(out, data) == 0
    testing = report(out)["splits"]["testing"]
    samples = read_samples(out / "testing")
    assert testing["samples"] == len(samples)
    assert testing["products"] == len({sample.product for sample in samples})
    assert testing["digest"] == data_digest(out / "testing", samples, check=False) == report(out)["frozen"]["digest"]
    assert sum(testing["labels"].values()) == len(samples)
    lengths = [len(sample.label) for sample in samples]
    assert testing["mean_label_length"] == pytest.approx(sum(lengths) / len(lengths), abs=1e-4)
    assert testing["random_baseline"] == pytest.approx(20 * sum(lengths) / len(lengths), abs=1e-2)
    assert testing["share_of_n"] == pytest.approx([s.label for s in samples].count("N") / len(samples), abs=1e-4)
    assert testing["samples_by_dimension"] == {
        "appearance_deformation": 0,
        "physical_shadow": sum(sample.label != "ABCD" for sample in samples),
        "placement_layout": sum(sample.label != "ABCD" for sample in samples),
        "extension_rationality": 0,
    }
    empty = report(out)["splits"]["exploration"]
    assert (empty["samples"], empty["digest"], empty["mean_label_length"]) == (0, None, None)
    assert report(out)["data"] == [{"name": "data", "samples": 40}]
    assert str(tmp_path) not in (out / SPLIT_NAME).read_text()
    assert testing["digest"] in capsys.readouterr().out


def test_the_same_command_again_changes_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    before = tree(tmp_path / "out")
    assert split(tmp_path / "out", data) == 0
    assert tree(tmp_path / "out") == before


def test_more_data_keeps_the_frozen_test_set_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(tmp_path / "old", *many(0, 12))
    new = write(tmp_path / "new", *many(12, 30), record("late", "p3"), record("later", "p9"))
    out = tmp_path / "out"
    assert split(out, old) == 0
    testing, frozen, placed = tree(out / "testing"), report(out)["frozen"], where(out)
    assert split(out, old, new) == 0
    assert tree(out / "testing") == testing
    assert report(out)["frozen"] == frozen
    assert {name: where(out)[name] for name in placed} == placed
    # A new run without the past tells which of the new samples belong to the test split.
    assert split(tmp_path / "fresh", old, new) == 0
    waiting = ids(tmp_path / "fresh", "testing") - ids(out, "testing")
    assert waiting and report(out)["held_back"] == len(waiting)
    assert not waiting & set(where(out))
    assert set(where(out)) | waiting == set(where(tmp_path / "fresh"))
    assert f"Held back: {len(waiting)} samples" in capsys.readouterr().out
    for late, early in (("late", "s3-0"), ("later", "s9-0")):  # of products that were there before
        assert where(out).get(late) == (None if placed[early] == "testing" else placed[early])


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"C", b"D", 1) + b" ")


@pytest.mark.parametrize(
    ("victim", "harm", "message"),
    [
        ("B.jpg", change, "b.jpg was changed"),
        ("B.jpg", Path.unlink, "b.jpg is missing"),
        ("samples.jsonl", change, "samples.jsonl was changed"),
        ("samples.jsonl", Path.unlink, "samples.jsonl is missing"),
    ],
)
def test_a_test_set_that_was_touched_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], victim: str, harm: Any, message: str
) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    out = tmp_path / "out"
    assert split(out, data) == 0
    harm(next((out / "testing").rglob(victim.lower())))
    before = tree(out)
    capsys.readouterr()
    assert split(out, data, write(tmp_path / "new", *many(12, 15))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "was changed: " in error and message in error
    assert tree(out) == before


def test_many_changed_files_make_a_short_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    pictures = list((tmp_path / "out" / "testing").rglob("*.jpg"))
    for path in pictures:
        path.unlink()
    assert split(tmp_path / "out", data) == 2
    assert f"and {len(pictures) - 5} more" in capsys.readouterr().err


def test_a_sample_added_to_the_test_set_by_hand_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    with (tmp_path / "out" / "testing" / "samples.jsonl").open("a") as handle:
        handle.write(json.dumps(record("extra", "p1")) + "\n")
    assert split(tmp_path / "out", data) == 2
    assert "samples.jsonl was changed" in capsys.readouterr().err


def test_an_edited_source_cannot_reach_the_test_set_but_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    out = tmp_path / "out"
    assert split(out, data) == 0
    before = tree(out / "testing")
    sample = sorted(ids(out, "testing"))[0]
    with (data / sample / "A.jpg").open("r+b") as handle:  # in place: a hard link would change too
        handle.write(b"PIXELS")
    assert tree(out / "testing") == before
    assert split(out, data) == 2
    error = capsys.readouterr().err
    assert f"sample '{sample}' is in the frozen test set" in error and "other pictures for it" in error


def test_a_corrected_label_reaches_training_but_not_the_test_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = many(0, 12)
    data = write(tmp_path / "data", *records)
    out = tmp_path / "out"
    assert split(out, data) == 0

    def relabelled(name: str) -> Path:
        return write(data, *(record(r["id"], r["product"], "D") if r["id"] == name else r for r in records))

    trained = sorted(ids(out, "training"))[0]
    assert split(out, relabelled(trained)) == 0
    assert {s.id: s.label for s in read_samples(out / "training")}[trained] == "D"
    tested = sorted(ids(out, "testing"))[0]
    assert split(out, relabelled(tested)) == 2
    assert "now holds another record for it" in capsys.readouterr().err


def reviewed(one: dict[str, Any], label: str, day: int) -> dict[str, Any]:
    """A record as `collect` writes it, with the verdict of a day."""
    provenance = {"task": f"tsk_{one['id']}", "job": "review", "reason": "audit", "decided": "one", "reviewers": 1}
    provenance |= {"reviews": [f"{one['id']}-{day}"], "at": f"2026-11-{day:02d}T12:00:00Z"}
    return record(one["id"], one["product"], label) | {"weight": 2.5, "provenance": provenance}


def test_a_sample_that_is_reviewed_again_reaches_training_but_not_the_test_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [reviewed(one, one["label"], 1) for one in many(0, 12)]
    old, out = write(tmp_path / "old", *first), tmp_path / "out"
    assert split(out, old) == 0
    frozen = tree(out / "testing")
    again = [reviewed(one, "D", 2) for one in first]
    assert all(one["label"] != "D" for one in first)
    new = write(tmp_path / "new", *again)
    for data in ([old, new], [new, old], [new]):  # the latest verdict counts, whatever the order
        capsys.readouterr()
        assert split(out, *data) == 0
        assert tree(out / "testing") == frozen
        assert {sample.label for sample in read_samples(out / "training")} == {"D"}
        assert report(out)["reviewed_again"] == sorted(ids(out, "testing"))
        assert f"Judged again: {len(ids(out, 'testing'))} samples of the test set" in capsys.readouterr().out
    trained = read_samples(out / "training")[0]
    assert trained.weight == 2.5 and trained.provenance and trained.provenance.at.day == 2
    assert split(tmp_path / "fresh", old, new) == 0
    assert {sample.label for sample in read_samples(tmp_path / "fresh" / "testing")} == {"D"}


def test_a_replaced_picture_reaches_training(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    out = tmp_path / "out"
    assert split(out, data) == 0
    digest = report(out)["splits"]["training"]["digest"]
    name = sorted(ids(out, "training"))[0]
    (data / name / "A.jpg").unlink()
    (data / name / "A.jpg").write_bytes(b"a better photo")
    assert split(out, data) == 0
    assert (out / "training" / "pictures" / name / "a.jpg").read_bytes() == b"a better photo"
    assert report(out)["splits"]["training"]["digest"] != digest


def test_pictures_are_linked_except_those_of_the_test_set(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    out = tmp_path / "out"
    assert split(out, data) == 0
    links = {name: {path.stat().st_nlink for path in (out / name).rglob("*.jpg")} for name in ("training", "testing")}
    assert links == {"training": {2}, "testing": {1}}


def test_where_links_are_impossible_pictures_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "linked", data) == 0

    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    assert split(tmp_path / "copied", data) == 0
    assert tree(tmp_path / "copied") == tree(tmp_path / "linked")
    assert {path.stat().st_nlink for path in (tmp_path / "copied").rglob("*.jpg")} == {1}


def test_a_symbolic_link_becomes_a_picture(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    for path in list(data.rglob("*.jpg")):
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real").name)
    assert split(tmp_path / "out", data) == 0
    pictures = list((tmp_path / "out").rglob("*.jpg"))
    assert len(pictures) == 24 * 5
    assert not any(path.is_symlink() for path in pictures)


def test_same_bytes_are_never_in_two_splits(tmp_path: Path) -> None:
    records = many(0, 20)
    for number in range(0, 20, 2):  # the next product uses this one's photo, under another name
        records[2 * number + 2]["original"]["file"] = f"shared/{number}.jpg"
        records[2 * number]["original"]["file"] = f"shared/{number}-again.jpg"
    data = write(tmp_path / "data", *records)
    for number in range(0, 20, 2):
        (data / f"shared/{number}-again.jpg").write_bytes((data / f"shared/{number}.jpg").read_bytes())
    assert split(tmp_path / "out", data) == 0
    placed = where(tmp_path / "out")
    assert all(placed[f"s{number}-0"] == placed[f"s{number + 1}-0"] for number in range(0, 20, 2))
    pictures = [
        {path.read_bytes() for path in (tmp_path / "out" / name).rglob("*.jpg")}
        for name in ("training", "testing", "pseudo-label")
    ]
    assert not (pictures[0] & pictures[1] or pictures[0] & pictures[2] or pictures[1] & pictures[2])


def test_a_sample_that_ties_two_splits_together_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    out = tmp_path / "out"
    assert split(out, data) == 0
    placed = where(out)
    trained = sorted(ids(out, "training"))[0]
    tested = sorted(ids(out, "testing"))[0]
    product = {sample.id: sample.product for sample in read_samples(out / "training")}[trained]
    bridge = write(tmp_path / "bridge", record("bridge", product), record("fine", product))
    (bridge / "bridge" / "original.jpg").write_bytes((data / tested / "original.jpg").read_bytes())
    assert split(out, data, bridge) == 0
    assert report(out)["left_out"] == ["bridge"]
    assert "Left out: 1 (bridge)" in capsys.readouterr().out
    assert where(out) == {**placed, "fine": "training"}


def test_a_product_without_a_name_is_told_by_its_original_picture(tmp_path: Path) -> None:
    files = ("{}.jpg", "{}-again.JPEG")
    records = [record(f"s{n}-{take}", "", original=files[take].format(n)) for n in range(20) for take in (0, 1)]
    data, out = write(tmp_path / "data", *records), tmp_path / "out"
    for number in range(20):
        (data / files[1].format(number)).write_bytes((data / files[0].format(number)).read_bytes())
    assert split(out, data) == 0
    placed = where(out)
    assert all(placed[f"s{n}-0"] == placed[f"s{n}-1"] for n in range(20))
    assert len(set(placed.values())) == 3
    for part, summary in report(out)["splits"].items():
        if summary["samples"]:
            samples = read_samples(out / part)
            products = {product_of(sample) for sample in samples}  # as `evaluate`, `calibrate` and `promote` count
            assert len(products) == summary["products"] == len(samples) / 2
    before = tree(out)
    assert split(out, data) == 0
    assert tree(out) == before


def test_an_original_that_no_sample_shows_any_more_is_removed(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *(record(f"s{n}", "") for n in range(20)))
    out = tmp_path / "out"
    assert split(out, data) == 0
    name = sorted(ids(out, "training"))[0]
    old = (data / name / "original.jpg").read_bytes()
    (data / name / "original.jpg").unlink()
    (data / name / "original.jpg").write_bytes(b"a better photo")
    assert split(out, data) == 0
    there = [path.read_bytes() for path in (out / "training").rglob("*.jpg")]
    assert b"a better photo" in there and old not in there


def test_ids_that_are_not_file_names_are_accepted(tmp_path: Path) -> None:
    records = [record(f"n{n}", f"p{n}") for n in range(20)]
    for number, one in enumerate(records):
        one["id"] = f"../shop/ä {number}"
    assert split(tmp_path / "out", write(tmp_path / "data", *records)) == 0
    samples = [s for name in ("training", "testing", "pseudo-label") for s in read_samples(tmp_path / "out" / name)]
    assert {sample.id for sample in samples} == {one["id"] for one in records}


def test_a_sample_in_two_directories_is_taken_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one", *many(0, 8))
    two = write(tmp_path / "two", *many(5, 12))
    assert split(tmp_path / "out", one, two) == 0
    assert len(where(tmp_path / "out")) == 24


def test_rendered_data_is_read_by_the_other_stages_and_by_datasets(tmp_path: Path) -> None:
    from datasets import Features, load_dataset

    from screening.prompt import COMPACT
    from trainer.evaluation.evaluate.generate import load_pictures
    from trainer.training.sft.rows import screening_rows

    write_dataset(Order(count=8, seed=5, size=64, severities=(0.2, 0.4, 0.4)), tmp_path / "data")
    assert split(tmp_path / "out", tmp_path / "data", shares="1,1,0,0") == 0
    files = {}
    for name in ("training", "testing"):
        directory = tmp_path / "out" / name
        samples = read_samples(directory)
        files[name] = str(directory / "samples.jsonl")
        assert [picture.size for picture in load_pictures(directory, samples[0], SMALL)] == [(64, 64)] * 5
        assert len(screening_rows(samples, COMPACT, direct_share=0.0, seed=0)) == len(samples)
    loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded["training"].features, Features)
    assert len(loaded["training"]) + len(loaded["testing"]) == 8
    for name in ("training", "testing"):
        for row in loaded[name]:
            for file in (row["original"]["file"], *(picture["file"] for picture in row["generated"])):
                assert (tmp_path / "out" / name / file).is_file()
                assert file.startswith(f"pictures/{row['id']}/")
