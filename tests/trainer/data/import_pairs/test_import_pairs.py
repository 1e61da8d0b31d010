"""Verdicts on single pictures become questions of four, and nothing disappears without a reason."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.trainer.data.import_pairs.tables import json_lines, left_over, picture, report, run, shop
from trainer.data_directory import read_samples


def test_pictures_of_one_original_are_grouped_in_fours_with_their_verdicts(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [9, 4, 3])
    assert run(json_lines(tmp_path / "p.jsonl", rows), "--images", tmp_path / "images", "--out", tmp_path / "d") == 0
    samples = read_samples(tmp_path / "d")
    assert sorted(Counter(sample.product for sample in samples).items()) == [("o0.png", 2), ("o1.png", 1)]
    verdicts = {
        (tmp_path / "images" / row["generated"]).read_bytes(): row["usable"] for row in rows if row["original"] != "o2"
    }
    for sample in samples:
        assert not sample.dimensions_known
        for one in sample.generated:
            assert one.usable is verdicts[(tmp_path / "d" / one.file).read_bytes()]
    assert report(tmp_path / "d")["left_over"] == {"fewer than four pictures of its original remain": 4}
    assert report(tmp_path / "d")["questions"] == 3
    used = 4 * len(samples)
    assert used + len(left_over(tmp_path / "d")) == len(rows)


def test_every_form_of_file_gives_the_same_samples(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [8, 5])
    json_lines(tmp_path / "p.jsonl", rows)
    (tmp_path / "p.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    for name, delimiter in (("p.csv", ","), ("p.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    written = []
    for name in ("p.jsonl", "p.json", "p.csv", "p.tsv", "p.parquet"):
        out = tmp_path / f"out-{name}"
        assert run(tmp_path / name, "--images", tmp_path / "images", "--out", out) == 0
        written.append((out / "samples.jsonl").read_bytes())
    assert len(set(written)) == 1


def test_the_order_of_rows_changes_nothing_and_another_seed_groups_otherwise(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [12])
    for name, some, seed in (("a", rows, 0), ("b", rows[::-1], 0), ("c", rows, 1)):
        file = json_lines(tmp_path / f"{name}.jsonl", some)
        assert run(file, "--images", tmp_path / "images", "--out", tmp_path / name, "--seed", seed) == 0
    lines = {name: set((tmp_path / name / "samples.jsonl").read_text().splitlines()) for name in "abc"}
    assert lines["a"] == lines["b"]
    assert lines["a"] != lines["c"]


def test_more_originals_change_no_question(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [9, 6, 5])
    some = [row for row in rows if row["original"] != "o1.png"]
    for name, given in (("few", some), ("all", rows)):
        file = json_lines(tmp_path / f"{name}.jsonl", given)
        assert run(file, "--images", tmp_path / "images", "--out", tmp_path / name) == 0
    few = set((tmp_path / "few" / "samples.jsonl").read_text().splitlines())
    assert few < set((tmp_path / "all" / "samples.jsonl").read_text().splitlines())


def test_unusable_pictures_are_left_over_with_a_reason(tmp_path: Path) -> None:
    images = tmp_path / "images"
    rows = shop(images, [9])
    rows += [
        {**rows[0]},
        {**rows[1], "usable": True},
        {"original": "o0.png", "generated": "o0.png", "usable": False},
        {"original": "o0.png", "generated": "gone.png", "usable": False},
        {"original": "o0.png", "generated": "torn.png", "usable": False},
        {"original": "o0.png", "generated": rows[2]["generated"], "usable": None},
    ]
    (images / "torn.png").write_bytes((images / "o0.png").read_bytes()[:60])
    assert run(json_lines(tmp_path / "p.jsonl", rows), "--images", images, "--out", tmp_path / "d") == 0
    assert report(tmp_path / "d")["left_over"] == {
        "contradictory verdicts": 2,
        "no verdict": 1,
        "the generated picture is the original": 1,
        "repeated": 1,
        "picture missing": 1,
        "picture unreadable": 1,
    }
    torn = next(one for one in left_over(tmp_path / "d") if one["reason"] == "picture unreadable")
    assert torn["generated"] == "torn.png"
    assert "torn.png" in torn["detail"]


def test_columns_words_and_dimensions_have_options(tmp_path: Path) -> None:
    images = tmp_path / "images"
    rows = [
        {
            "src": row["original"],
            "dst": row["generated"],
            "urteil": "Gut" if row["usable"] else "SCHLECHT",
            "sku": 4711,
            "why": "" if row["usable"] else "shadow; placement layout",
            "note": "seen twice",
        }
        for row in shop(images, [4])
    ]
    options = [
        "--original-column",
        "src",
        "--generated-column",
        "dst",
        "--usable-column",
        "urteil",
        "--product-column",
        "sku",
    ]
    options += [
        "--dimensions-column",
        "why",
        "--comment-column",
        "note",
        "--usable-values",
        "gut",
        "--unusable-values",
        "schlecht",
    ]
    file = json_lines(tmp_path / "p.jsonl", rows)
    assert run(file, "--images", images, "--out", tmp_path / "d", *options) == 0
    (sample,) = read_samples(tmp_path / "d")
    assert sample.product == "4711"
    assert sample.dimensions_known
    bad = [one for one in sample.generated if not one.usable]
    assert {tuple(sorted(one.dimensions)) for one in bad} == {("physical_shadow", "placement_layout")}
    assert {one.comment for one in sample.generated} == {"seen twice"}


def test_both_layouts_of_hfpc_are_read(tmp_path: Path) -> None:
    from trainer.data.import_pairs.pairs import picture_of_url

    images = tmp_path / "images"
    base = "https://shop.example/p/"
    for name, shade in (("o.jpg", 1), ("a.jpg", 2), ("b.jpg", 3), ("c.jpg", 4), ("d.webp?x=1", 5)):
        picture(images / picture_of_url(base + name), shade)
    generated = [base + name for name in ("a.jpg", "b.jpg", "c.jpg", "d.webp?x=1")]
    labels = [1, 0, 0, 1]
    test = [
        {"origin": base + "o.jpg", "generation": one, "label": label}
        for one, label in zip(generated, labels, strict=True)
    ]
    training = [{base + "o.jpg": {"generations": generated, "labels": labels}}]
    lines = []
    for name, rows in (("test", test), ("training", training)):
        file = json_lines(tmp_path / f"{name}.json", rows)
        assert run(file, "--images", images, "--out", tmp_path / name, "--preset", "hfpc-44k") == 0
        lines.append((tmp_path / name / "samples.jsonl").read_text())
    assert lines[0] == lines[1]
    assert sum(one.usable for one in read_samples(tmp_path / "test")[0].generated) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"original": "o0.png"', "line 1: not valid JSON"),
        ("[1]", "item 1: expected a JSON object, not int"),
        ('{"original": "o0.png", "usable": 1}', "missing column 'generated' (found: original, usable)"),
        ('{"original": "", "generated": "a.png", "usable": 1}', "column 'original' must hold text, not ''"),
        ('{"original": "o0.png", "generated": ["a"], "usable": 1}', "column 'generated' must hold text, not ['a']"),
        ('{"original": "../o.png", "generated": "a.png", "usable": 1}', "must be a path inside --images"),
        ('{"original": "o0.png", "generated": "/etc/passwd", "usable": 1}', "must be a path inside --images"),
        (
            '{"original": "o0.png", "generated": "a.png", "usable": "maybe"}',
            "unknown verdict 'maybe' in column 'usable'",
        ),
        ('{"original": "o0.png", "generated": "a.png", "usable": 2}', "unknown verdict 2 in column 'usable'"),
        ("", "no pairs in"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    shop(tmp_path / "images", [1])
    (tmp_path / "p.jsonl").write_text(content)
    assert run(tmp_path / "p.jsonl", "--images", tmp_path / "images", "--out", tmp_path / "d") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_the_error_for_too_few_pictures_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shop(tmp_path / "images", [3, 2])
    assert run(json_lines(tmp_path / "p.jsonl", rows), "--images", tmp_path / "images", "--out", tmp_path / "d") == 2
    assert "no original has 4 suitable pictures; left over: 5 ×" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_the_same_command_again_changes_nothing_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = shop(tmp_path / "images", [8])
    file = json_lines(tmp_path / "p.jsonl", rows)
    again = (file, "--images", tmp_path / "images", "--out", tmp_path / "d")
    assert run(*again) == 0
    before = (tmp_path / "d" / "samples.jsonl").read_bytes()
    assert run(*again) == 0
    assert (tmp_path / "d" / "samples.jsonl").read_bytes() == before
    assert run(*again, "--seed", 5) == 2
    assert "holds a run with other settings or data" in capsys.readouterr().err


def test_column_options_beside_a_preset_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = json_lines(tmp_path / "p.jsonl", [{}])
    options = ["--preset", "hfpc-44k", "--usable-column", "x"]
    assert run(file, "--images", tmp_path, "--out", tmp_path / "d", *options) == 2
    assert "remove the column options" in capsys.readouterr().err
    assert run(file, "--images", tmp_path, "--out", tmp_path / "d", "--usable-values", "no") == 2
    assert "'no' means both usable and not usable" in capsys.readouterr().err
