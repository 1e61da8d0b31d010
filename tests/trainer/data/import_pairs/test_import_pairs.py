"""Verdicts on single pictures become questions of four, and nothing disappears without a reason."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from trainer.__main__ import main
from trainer.data_directory import read_samples

Row = dict[str, Any]


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (shade % 256, shade * 7 % 256, 90)).save(path)


def shop(images: Path, counts: Iterable[int]) -> list[Row]:
    """Originals with so many generated pictures each; every third picture is usable."""
    rows = []
    for number, count in enumerate(counts):
        original = f"o{number}.png"
        picture(images / original, 200 + number)
        for index in range(count):
            name = f"g/{number}-{index}.png"
            picture(images / name, 10 * number + index)
            rows.append({"original": original, "generated": name, "usable": index % 3 == 0})
    return rows


def json_lines(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return main(["import-pairs", *map(str, arguments)])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "import-pairs.json").read_text())
    return found


def left_over(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "left-over.jsonl").read_text().splitlines()]


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.csv",
            b"original,generated,usable\na.png,b.png,1,extra\n",
            "line 2: 4 values, but the header has 3",
        ),
        ("p.csv", "original,generated,usable\nä.png,b.png,1\n".encode("latin-1"), "is not UTF-8 text"),
        ("p.parquet", b"PAR1 and no more", "cannot be read as a Parquet file"),
    ],
)
def test_a_file_that_is_not_of_its_form_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    shop(tmp_path / "images", [1])
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path / name, "--images", tmp_path / "images", "--out", tmp_path / "d") == 2
    assert message in capsys.readouterr().err


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


HEADER = "original,generated,usable"


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (HEADER.replace(",", ";"), "{original};{generated};{usable:d}"),
        (" original , generated , usable ", "{original},{generated},{usable:d}.0"),
        ("\n\n" + HEADER, '"{original}","{generated}",{usable:d}'),
    ],
)
def test_tables_as_programs_export_them_are_read(tmp_path: Path, header: str, line: str) -> None:
    rows = shop(tmp_path / "images", [4])
    text = "\r\n".join([header, *(line.format(**row) for row in rows), ""])
    (tmp_path / "p.csv").write_bytes(text.encode())
    assert run(tmp_path / "p.csv", "--images", tmp_path / "images", "--out", tmp_path / "d") == 0
    assert report(tmp_path / "d")["usable"] == 2


def test_columns_of_parquet_files_come_in_many_types(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [5])
    verdicts = [Decimal(int(row["usable"])) for row in rows]
    texts = [row["generated"] for row in rows]
    tables = {
        "bytes": {"generated": [text.encode() for text in texts], "usable": [float(one) for one in verdicts]},
        "dictionary": {"generated": pyarrow.array(texts).dictionary_encode(), "usable": verdicts},
        "gaps": {"generated": texts, "usable": [float("nan"), *map(float, verdicts[1:])]},
    }
    for name, table in tables.items():
        parquet.write_table(pyarrow.table({"original": ["o0.png"] * 5, **table}), tmp_path / f"{name}.parquet")
        out = tmp_path / name
        assert run(tmp_path / f"{name}.parquet", "--images", tmp_path / "images", "--out", out) == 0
        assert report(out)["questions"] == 1
    assert report(tmp_path / "gaps")["left_over"] == {"no verdict": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", f"{HEADER},usable\na.png,b.png,1,0\n".encode(), "line 1: two columns have the name 'usable'"),
        ("p.csv", f"{HEADER}\na.png,b.png\n".encode(), "line 2: 2 values, but the header has 3 columns"),
        ("p.csv", f'{HEADER}\n"a.png,b.png,1\n'.encode(), "not valid CSV"),
        ("p.xlsx", b"PK\x03\x04\xff\xfe", "is an Excel workbook or another ZIP file"),
        ("p.csv.gz", b"\x1f\x8b\xff\xfe", "is compressed"),
        ("p.csv", b"PAR1\xff\xfe", "rename it to end in .parquet"),
        ("p.txt", f"{HEADER}\n".encode(), "CSV and Parquet files must end in"),
        (
            "p.jsonl",
            b'{"original": "\\ud800.png", "generated": "a", "usable": 1}',
            "line 1: the column 'original' holds",
        ),
        ("p.jsonl", b'{"original": {"bytes": "' + b"x" * 9999 + b'"}, "generated": "a", "usable": 1}', "xxx…"),
    ],
)
def test_the_error_for_an_odd_file_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path / name, "--images", tmp_path, "--out", tmp_path / "d") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error) < 600


def test_copies_of_an_original_are_one_original(tmp_path: Path) -> None:
    images = tmp_path / "images"
    rows = shop(images, [4])
    for number, row in enumerate(rows):
        shutil.copy(images / "o0.png", images / f"copy{number}.png")
        row["original"] = f"copy{number}.png"
    rows.append({"original": "copy0.png", "generated": "copy3.png", "usable": False})
    assert run(json_lines(tmp_path / "p.jsonl", rows), "--images", images, "--out", tmp_path / "d") == 0
    (sample,) = read_samples(tmp_path / "d")
    assert sample.product == "copy0.png"
    assert report(tmp_path / "d")["originals"] == 1
    assert report(tmp_path / "d")["left_over"] == {"the generated picture is the original": 1}


def test_copies_of_a_generated_picture_are_one_picture(tmp_path: Path) -> None:
    images = tmp_path / "images"
    rows = shop(images, [5])
    for number, verdict in ((1, rows[1]["usable"]), (2, not rows[2]["usable"])):
        shutil.copy(images / rows[number]["generated"], images / f"copy{number}.png")
        rows.append({"original": "o0.png", "generated": f"copy{number}.png", "usable": verdict})
    rows += shop(images / "more", [0])
    for shade in (301, 302):
        picture(images / f"{shade}.png", shade)
        rows.append({"original": "o0.png", "generated": f"{shade}.png", "usable": True})
    assert run(json_lines(tmp_path / "p.jsonl", rows), "--images", images, "--out", tmp_path / "d") == 0
    left = report(tmp_path / "d")["left_over"]
    assert (left["contradictory verdicts"], left["repeated"]) == (2, 1)
    for sample in read_samples(tmp_path / "d"):
        assert len({(tmp_path / "d" / file).read_bytes() for file in sample.files}) == 5


def test_one_file_spelled_in_two_unicode_forms_is_one_file(tmp_path: Path) -> None:
    images = tmp_path / "images"
    rows = shop(images, [4])
    (images / "o0.png").rename(images / unicodedata.normalize("NFD", "é.png"))
    for row, form in zip(rows, ("NFC", "NFD", "NFC", "NFD"), strict=True):
        row["original"] = unicodedata.normalize(form, "é.png")
    assert run(json_lines(tmp_path / "p.jsonl", rows), "--images", images, "--out", tmp_path / "d") == 0
    assert report(tmp_path / "d")["questions"] == 1


def test_a_picture_that_the_file_system_refuses_ends_no_import(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [4])
    rows += [{**rows[0], "generated": name} for name in ("a" * 300, "é" * 300, "a\0b", "http://[broken/a.jpg")]
    file = json_lines(tmp_path / "p.jsonl", rows)
    assert run(file, "--images", tmp_path / "images", "--out", tmp_path / "d") == 0
    assert report(tmp_path / "d")["left_over"] == {"picture unreadable": 2, "picture missing": 2}


def test_absolute_paths_through_a_symbolic_link_are_inside(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [4])
    (tmp_path / "link").symlink_to("images")
    for row in rows:
        row["original"] = str(tmp_path / "link" / row["original"])
    file = json_lines(tmp_path / "p.jsonl", rows)
    assert run(file, "--images", tmp_path / "link", "--out", tmp_path / "d") == 0
    assert report(tmp_path / "d")["questions"] == 1


def test_two_files_of_one_name_are_both_kept_in_mind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shop(tmp_path / "images", [8])
    for folder, some in (("a", rows[:4]), ("b", rows[4:])):
        (tmp_path / folder).mkdir()
        json_lines(tmp_path / folder / "p.jsonl", some)
    again = (tmp_path / "a/p.jsonl", tmp_path / "b/p.jsonl", "--images", tmp_path / "images", "--out", tmp_path / "d")
    assert run(*again) == 0
    assert list(report(tmp_path / "d")["files"]) == ["p.jsonl", "p.jsonl (2)"]
    json_lines(tmp_path / "a/p.jsonl", rows[:3])
    assert run(*again) == 2
    assert "holds a run with other settings or data" in capsys.readouterr().err


def test_of_two_imports_into_one_directory_one_is_refused(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [8])
    command = [json_lines(tmp_path / "p.jsonl", rows), "--images", tmp_path / "images", "--out", tmp_path / "d"]
    assert run(*command) == 0
    # This process keeps the directory until it ends.
    again = [sys.executable, "-m", "trainer", "import-pairs", *map(str, command)]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another process is using" in done.stderr
