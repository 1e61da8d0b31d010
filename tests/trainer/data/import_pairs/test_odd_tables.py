"""Tables as programs export them, unreadable files, and copies of pictures."""

from __future__ import annotations

import shutil
import subprocess
import sys
import unicodedata
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.trainer.data.import_pairs.tables import json_lines, picture, report, run, shop
from trainer.data.split.assign import assign, shares_of
from trainer.data.split.held_out import read_items
from trainer.data_directory import read_samples


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


@pytest.mark.parametrize("issue", [b"shadow", [b"shadow"]], ids=["text", "list"])
def test_text_that_a_parquet_file_holds_as_bytes_is_text(tmp_path: Path, issue: bytes | list[bytes]) -> None:
    rows = shop(tmp_path / "images", [4])
    columns = {
        "original": [row["original"].encode() for row in rows],
        "generated": [row["generated"].encode() for row in rows],
        "usable": [b"Yes" if row["usable"] else b"no" for row in rows],
        "why": [None if row["usable"] else issue for row in rows],
        "note": ["the colour – changed".encode()] * 4,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    options = ("--dimensions-column", "why", "--comment-column", "note")
    assert run(tmp_path / "p.parquet", "--images", tmp_path / "images", "--out", tmp_path / "d", *options) == 0
    (sample,) = read_samples(tmp_path / "d")
    assert {one.comment for one in sample.generated} == {"the colour – changed"}
    assert [len(one.dimensions) for one in sample.generated] == [int(not one.usable) for one in sample.generated]
    assert report(tmp_path / "d")["usable"] == 2


def test_a_column_of_comments_that_no_row_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shop(tmp_path / "images", [4])
    rows[1]["note"] = "too dark"  # lines of JSON may leave it out
    command = (json_lines(tmp_path / "p.jsonl", rows), "--images", tmp_path / "images", "--out", tmp_path / "d")
    assert run(*command, "--comment-column", "nots") == 2
    assert "no row has the column 'nots' (found: original, generated, usable, note)" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
    assert run(*command, "--comment-column", "note") == 0
    (sample,) = read_samples(tmp_path / "d")
    assert sorted(one.comment for one in sample.generated) == ["", "", "", "too dark"]


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


def test_products_that_share_an_original_have_their_own_questions_and_stay_together(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "d"
    rows = [row | {"sku": ("red", "blue")[number % 2]} for number, row in enumerate(shop(images, [8]))]
    file = json_lines(tmp_path / "p.jsonl", rows)
    assert run(file, "--images", images, "--out", out, "--product-column", "sku") == 0
    products = {(images / row["generated"]).read_bytes(): row["sku"] for row in rows}
    samples = read_samples(out)
    assert sorted(sample.product for sample in samples) == ["blue", "red"]
    for sample in samples:
        assert {products[(out / one.file).read_bytes()] for one in sample.generated} == {sample.product}
    items, halves = read_items(out), shares_of([1, 1, 0, 0])
    assert all(len(set(assign(items, halves, seed, {}).values())) == 1 for seed in range(20))


def test_a_picture_of_two_products_belongs_to_neither(tmp_path: Path) -> None:
    rows = [row | {"sku": "red"} for row in shop(tmp_path / "images", [5])]
    rows.append(rows[0] | {"sku": "blue"})
    file = json_lines(tmp_path / "p.jsonl", rows)
    assert run(file, "--images", tmp_path / "images", "--out", tmp_path / "d", "--product-column", "sku") == 0
    assert report(tmp_path / "d")["left_over"] == {"several products": 2}


def test_the_name_of_the_only_product_of_an_original_changes_no_question(tmp_path: Path) -> None:
    rows = [row | {"sku": "red"} for row in shop(tmp_path / "images", [9, 6])]
    command = (json_lines(tmp_path / "p.jsonl", rows), "--images", tmp_path / "images")
    assert run(*command, "--out", tmp_path / "with", "--product-column", "sku") == 0
    assert run(*command, "--out", tmp_path / "without") == 0
    named, unnamed = read_samples(tmp_path / "with"), read_samples(tmp_path / "without")
    assert [sample.id for sample in named] == [sample.id for sample in unnamed]
    assert [sample.label for sample in named] == [sample.label for sample in unnamed]


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


@pytest.mark.slow
def test_of_two_imports_into_one_directory_one_is_refused(tmp_path: Path) -> None:
    rows = shop(tmp_path / "images", [8])
    command = [json_lines(tmp_path / "p.jsonl", rows), "--images", tmp_path / "images", "--out", tmp_path / "d"]
    assert run(*command) == 0
    # This process keeps the directory until it ends.
    again = [sys.executable, "-m", "trainer", "import-pairs", *map(str, command)]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another process is using" in done.stderr
