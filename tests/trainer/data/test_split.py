"""Dividing data: by product, without a leak, the same every time, with a test set that never changes again."""

from __future__ import annotations

import argparse
import errno
import json
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.__main__ import main
from trainer.data.render.dataset import Order, write_dataset
from trainer.data.split import write as writing
from trainer.data.split.assign import Item, Split, assign, place, shares_of, split_at
from trainer.data.split.command import add_arguments
from trainer.data.split.divide import SPLIT_NAME
from trainer.data_directory import data_digest, read_samples
from trainer.records import Sample, Unlabelled

EVEN = shares_of([1, 1, 1, 1])
THIRDS = "1,1,1,0"


def record(name: str, product: str, label: str = "AC", **files: str) -> dict[str, Any]:
    """A sample as a source writes it; `files` gives pictures other names than the sample's own."""
    generated = [
        {
            "file": files.get(option, f"{name}/{option}.jpg"),
            "option": option,
            "usable": option in label,
            "dimensions": [] if option in label else ["physical_shadow", "placement_layout"],
            "severity": 0 if option in label else 2,
        }
        for option in "ABCD"
    ]
    original = {"file": files.get("original", f"{name}/original.jpg"), "attributes": {"colour": "red"}}
    return {"id": name, "product": product, "original": original, "generated": generated, "label": label}


def write(directory: Path, *records: dict[str, Any]) -> Path:
    """A data directory whose pictures are bytes of their own: splitting does not look at pixels."""
    directory.mkdir(parents=True, exist_ok=True)
    for one in records:
        for file in (one["original"]["file"], *(picture["file"] for picture in one["generated"])):
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(f"pixels of {file}".encode())
    (directory / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return directory


def many(first: int, last: int) -> list[dict[str, Any]]:
    """Two samples of each product from `first` to `last - 1`."""
    labels = ("AC", "N", "B", "ABCD")
    return [
        record(f"s{number}-{take}", f"p{number}", labels[(number + take) % 4])
        for number in range(first, last)
        for take in (0, 1)
    ]


def split(out: Path, *data: Path, shares: str = THIRDS, seed: int = 0) -> int:
    return main(["split", "--data", *map(str, data), "--out", str(out), "--shares", shares, "--seed", str(seed)])


def report(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / SPLIT_NAME).read_text()))


def ids(out: Path, name: str) -> set[str]:
    return {json.loads(line)["id"] for line in (out / name / "samples.jsonl").read_text().splitlines()}


def where(out: Path) -> dict[str, str]:
    return {sample: name for name in Split for sample in ids(out, name)}


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def item(name: str, product: str, pictures: tuple[str, ...]) -> Item:
    sample = Sample.model_validate(record(name, product))
    return Item(sample, b"", Path(), pictures)


def test_the_default_shares_are_the_papers_sizes() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    shares = parser.parse_args(["--data", "d", "--out", "o"]).shares
    assert shares == {
        Split.TRAINING: Fraction(1_044, 128_045),
        Split.TESTING: Fraction(468, 128_045),
        Split.PSEUDO_LABEL: Fraction(10_724, 128_045),
        Split.EXPLORATION: Fraction(115_809, 128_045),
    }


def test_a_place_belongs_to_the_stretch_it_lies_in() -> None:
    shares = shares_of([2, 1, 0, 1])
    half, quarter = 1 << 63, 1 << 62
    expected = {
        0: Split.TRAINING,
        half - 1: Split.TRAINING,
        half: Split.TESTING,
        half + quarter - 1: Split.TESTING,
        half + quarter: Split.EXPLORATION,  # nothing lies in an empty stretch
        2 * half - 1: Split.EXPLORATION,
    }
    assert {position: split_at(position, shares) for position in expected} == expected


def test_products_spread_as_the_shares_say() -> None:
    shares = shares_of([Fraction("0.5"), Fraction("0.3"), Fraction("0.15"), Fraction("0.05")])
    placed = [split_at(place(f"product {number}", 7), shares) for number in range(20_000)]
    assert {one: round(placed.count(one) / 20_000, 2) for one in Split} == {
        Split.TRAINING: 0.5,
        Split.TESTING: 0.3,
        Split.PSEUDO_LABEL: 0.15,
        Split.EXPLORATION: 0.05,
    }


@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 0, 0, 0], [1, 1, 1, -1]])
def test_weights_that_are_not_shares_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="give 4 weights"):
        shares_of(weights)


items = st.lists(
    st.tuples(
        st.sampled_from(["", "p1", "p2", "p3", "p4", "p5", "p6"]),
        st.lists(st.integers(0, 40), min_size=5, max_size=5),
    ),
    max_size=14,
).map(
    lambda drawn: [
        item(f"s{number}", product, tuple(f"d{digest}" for digest in digests))
        for number, (product, digests) in enumerate(drawn)
    ]
)


def leaks(items: list[Item], assigned: dict[str, Split | None]) -> set[str]:
    """Products and pictures that are in two splits."""
    seen: dict[str, set[Split]] = {}
    for one in items:
        if (where := assigned[one.sample.id]) is not None:
            for tie in one.ties:
                seen.setdefault(tie, set()).add(where)
    return {tie for tie, splits in seen.items() if len(splits) > 1}


@given(items, st.integers(0, 3), st.randoms())
def test_nothing_is_in_two_splits_whatever_is_shared_and_in_any_order(items: list[Item], seed: int, rng: Any) -> None:
    assigned = assign(items, EVEN, seed, {})
    assert not leaks(items, assigned)
    assert None not in assigned.values()  # without a past, everything has a place
    shuffled = list(items)
    rng.shuffle(shuffled)
    assert assign(shuffled, EVEN, seed, {}) == assigned


@given(items, st.integers(0, 14))
def test_more_data_moves_nothing_and_leaks_nothing(items: list[Item], first: int) -> None:
    before = assign(items[:first], EVEN, 0, {})
    earlier = {name: one for name, one in before.items() if one is not None}
    after = assign(items, EVEN, 0, earlier)
    assert {name: after[name] for name in before} == before
    assert not leaks(items, after)
    known = {one.product: before[one.sample.id] for one in items[:first]}
    for one in items[first:]:
        assert after[one.sample.id] in (None, known.get(one.product, after[one.sample.id]))


def test_a_product_keeps_its_split_without_any_memory_too(tmp_path: Path) -> None:
    small = write(tmp_path / "small", *many(0, 12))
    large = write(tmp_path / "large", *many(0, 24))
    assert split(tmp_path / "one", small) == split(tmp_path / "two", large) == 0
    one, two = where(tmp_path / "one"), where(tmp_path / "two")
    assert len(one) == 24
    assert {name: two[name] for name in one} == one
    assert len(set(one.values())) == 3


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


def test_another_seed_is_another_division(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 20))
    assert split(tmp_path / "one", data, seed=1) == split(tmp_path / "two", data, seed=2) == 0
    assert where(tmp_path / "one") != where(tmp_path / "two")


def test_the_order_of_the_data_changes_nothing(tmp_path: Path) -> None:
    first = write(tmp_path / "first", *many(0, 12))
    second = write(tmp_path / "second", *many(12, 20))
    assert split(tmp_path / "one", first, second) == split(tmp_path / "two", second, first) == 0
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert {name for name in one if one[name] != two.get(name)} <= {SPLIT_NAME}
    assert report(tmp_path / "one")["splits"] == report(tmp_path / "two")["splits"]


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


@pytest.mark.parametrize("calls", [0, 1, 30, 119])
def test_a_killed_run_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "whole", data) == 0
    done = 0
    place = writing._place

    def dying(*args: Any, **settings: Any) -> None:
        nonlocal done
        if done == calls:
            raise KeyboardInterrupt
        done += 1
        place(*args, **settings)

    monkeypatch.setattr(writing, "_place", dying)
    assert split(tmp_path / "out", data) == 130
    assert not (tmp_path / "out" / SPLIT_NAME).exists()
    monkeypatch.undo()
    for folder in list((tmp_path / "out").rglob("pictures"))[:1]:  # the picture that was being written
        (folder / "s0-0").mkdir(exist_ok=True)
    assert split(tmp_path / "out", data) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_first_run_that_was_killed_may_be_made_with_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = write(tmp_path / "wrong", *many(100, 112))
    right = write(tmp_path / "right", *many(0, 12))
    with monkeypatch.context() as patch:
        patch.setattr("trainer.data.split.divide.freeze", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert split(tmp_path / "out", wrong) == 130
    assert split(tmp_path / "out", right) == 0
    assert split(tmp_path / "clean", right) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")  # no picture of the wrong data is left


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
    records = [record(f"s{n}-{take}", "", original=f"{n}.jpg") for n in range(20) for take in (0, 1)]
    assert split(tmp_path / "out", write(tmp_path / "data", *records)) == 0
    placed = where(tmp_path / "out")
    assert all(placed[f"s{n}-0"] == placed[f"s{n}-1"] for n in range(20))
    assert len(set(placed.values())) == 3


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


def test_one_id_for_two_samples_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one", *many(0, 12))
    two = write(tmp_path / "two", record("s3-0", "p3", "D"))
    assert split(tmp_path / "out", one, two) == 2
    assert "different samples with the id 's3-0'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_that_is_gone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one", *many(0, 12))
    two = write(tmp_path / "two", *many(12, 20))
    assert split(tmp_path / "out", one) == 0
    before = tree(tmp_path / "out")
    assert split(tmp_path / "out", two) == 2
    assert "24 samples of earlier runs are missing from the data directories" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_other_settings_in_the_same_directory_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    for settings in ({"seed": 1}, {"shares": "2,1,1,0"}):
        assert split(tmp_path / "out", data, **settings) == 2  # type: ignore[arg-type]
        assert "other settings" in capsys.readouterr().err
    assert split(tmp_path / "out", data, shares="0.5,0.5,0.5,0") == 0  # the same shares, written in another way


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(data, data) == 2
    assert "holds other files" in capsys.readouterr().err
    assert split(tmp_path / "data" / "samples.jsonl", data) == 2


def test_a_damaged_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", *many(0, 12))
    assert split(tmp_path / "out", data) == 0
    (tmp_path / "out" / SPLIT_NAME).write_text('{"format": 1')
    assert split(tmp_path / "out", data) == 2
    assert "split.json is damaged" in capsys.readouterr().err


def test_too_little_data_for_a_test_set_is_refused_and_leaves_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", *many(0, 3))
    assert main(["split", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "none of 3 products fell into the test split, whose share is 0.37%" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert split(tmp_path / "out", data, shares="1,0,0,0") == 0  # no test set is wanted
    assert report(tmp_path / "out")["frozen"] is None
    assert split(tmp_path / "out", data, shares="1,0,0,0") == 0


def test_a_directory_that_holds_no_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert split(tmp_path / "out", tmp_path / "nowhere") == 2
    assert "nowhere a data directory?" in capsys.readouterr().err


@pytest.mark.parametrize("shares", ["1,2,3", "a,b,c,d", "0,0,0,0", "1,1,1,-1", "nan,1,1,1", "1/0,1,1,1"])
def test_shares_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], shares: str) -> None:
    with pytest.raises(SystemExit):
        split(tmp_path / "out", tmp_path, shares=shares)
    assert (
        "must be four numbers of at least 0, not all 0 (training, testing, pseudo-label, exploration)"
        in capsys.readouterr().err
    )


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
        assert [picture.size for picture in load_pictures(directory, samples[0], 64)] == [(64, 64)] * 5
        assert len(screening_rows(samples, COMPACT, direct_share=0.0, seed=0)) == len(samples)
    loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded["training"].features, Features)
    assert len(loaded["training"]) + len(loaded["testing"]) == 8
    for name in ("training", "testing"):
        for row in loaded[name]:
            for file in (row["original"]["file"], *(picture["file"] for picture in row["generated"])):
                assert (tmp_path / "out" / name / file).is_file()
                assert file.startswith(f"pictures/{row['id']}/")


def unlabelled(name: str, product: str, **files: str) -> dict[str, Any]:
    line = record(name, product, **files)
    for picture in line["generated"]:
        del picture["usable"], picture["dimensions"], picture["severity"]
    del line["label"]
    return line


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


mixed = st.tuples(items, st.lists(st.booleans(), min_size=14, max_size=14)).map(
    lambda drawn: [
        one
        if labelled
        else replace(one, sample=Unlabelled.model_validate(unlabelled(one.sample.id, one.sample.product)))
        for one, labelled in zip(drawn[0], drawn[1], strict=False)
    ]
)


@given(mixed, st.integers(0, 14))
def test_with_and_without_labels_nothing_tested_is_trained_on_and_nothing_moves(items: list[Item], first: int) -> None:
    before = assign(items[:first], EVEN, 0, {})
    earlier = {name: one for name, one in before.items() if one is not None}
    after = assign(items, EVEN, 0, earlier)
    assert earlier.items() <= after.items()
    tested = {tie for one in items if after[one.sample.id] is Split.TESTING for tie in one.ties}
    for one in items:
        split = after[one.sample.id]
        assert one.labelled or split in (None, Split.PSEUDO_LABEL, Split.EXPLORATION)
        assert split in (None, Split.TESTING) or not tested & set(one.ties)
