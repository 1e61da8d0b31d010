"""What `screen-dataset` writes for sound and odd input, and how it continues; with scripted answers in this process."""

from __future__ import annotations

import json
import os
import signal
import unicodedata
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.catalogue.scripted import DIES_AT, FAILS_AT, TURNS, give_turns, picture, question, write_questions
from tests.trainer.scripted_engine import LETTERS
from trainer.catalogue import sources
from trainer.catalogue.engine import LastingEngine
from trainer.catalogue.rejects import CatalogueError
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.generate import OfflineEngine


def test_every_record_is_answered_with_the_columns_of_a_service_answer(catalogue, tmp_path, capsys):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(11)])
    assert catalogue.run(data, "--cost-per-hour", "36") == 0
    assert catalogue.answered == {f"p{number}": 1 for number in range(11)}
    first = next(row for row in catalogue.answers if row["id"] == "p1")
    assert (first["choice"], first["acceptable"], first["outcome"], first["price"]) == ("B", ["B"], "answered", 1)
    assert [verdict["issues"] for verdict in first["options"]] == [["physical_shadow"], [], *[["physical_shadow"]] * 2]
    assert first["reasoning"].endswith("so I ultimately chose B.")
    assert first["checkpoint_digest"].startswith("sha256:")
    unreadable = next(row for row in catalogue.answers if row["id"] == "p5")
    assert (unreadable["outcome"], unreadable["choice"], unreadable["confidence"]) == ("unreadable", None, 0.0)
    assert "11 of 11 records answered, 0 rejected" in capsys.readouterr().out
    summary = json.loads((catalogue.out / "summary.json").read_text())
    assert summary["choices"] == {"A": 2, "B": 2, "C": 2, "D": 2, "N": 2, "unreadable": 1}
    assert summary["cost_per_thousand"] == pytest.approx(36 / 3600 / summary["per_second"] * 1000, rel=0.01)


def test_direct_answers_have_no_reasoning(catalogue, tmp_path):
    data = write_questions(tmp_path / "data.parquet", [question(0)])
    assert catalogue.run(data, "--mode", "direct") == 0
    (row,) = catalogue.answers
    assert (row["choice"], row["reasoning"], row["mode"]) == ("A", None, "direct")


@pytest.mark.slow
def test_each_bad_record_has_a_named_reason_and_the_others_are_answered(catalogue, tmp_path, capsys):
    huge = b"\x89PNG\r\n\x1a\n" + bytes(11 * 2**20)
    rows = [
        question(0),
        question(1, id=None),
        question(2, id=""),
        question(3, id="p0"),
        question(4, a=None),
        question(5, b=b""),
        question(6, c=b"no picture"),
        question(7, d=picture(7)[:60]),
        question(8, original=picture(8, side=20)),
        question(9, a=huge),
        question(10),
    ]
    data = write_questions(tmp_path / "data.parquet", rows)
    assert catalogue.run(data) == 1
    assert catalogue.answered == {"p0": 1, "p10": 1}
    assert [(row["row"], row["reason"], row["picture"]) for row in catalogue.rejects] == [
        (1, "bad-id", None),
        (2, "bad-id", None),
        (3, "duplicate-id", None),
        (4, "missing-picture", "a"),
        (5, "missing-picture", "b"),
        (6, "image-unsupported", "c"),
        (7, "image-unreadable", "d"),
        (8, "image-shape", "original"),
        (9, "image-too-large", "a"),
    ]
    assert "2 of 11 records answered, 9 rejected" in capsys.readouterr().out


def test_a_directory_of_odd_files_is_screened_as_far_as_it_can_be(catalogue, tmp_path):
    folder = tmp_path / "data"
    write_questions(folder / "day=1" / "part.parquet", [question(0), question(1)])
    write_questions(folder / "day=2" / "part.parquet", [question(1), question(2)])
    columns = pa.schema([("id", pa.string()), *((name, pa.binary()) for name in ("original", "a", "b", "c", "d"))])
    pq.write_table(columns.empty_table(), folder / "empty.parquet")
    lacking = [{name: value for name, value in question(3).items() if name != "d"}]
    write_questions(folder / "lacking.parquet", lacking)
    write_questions(folder / "numbers.parquet", [question(4, **dict.fromkeys(("original", *"abcd"), 7))])
    write_questions(folder / "integers.parquet", [question(5, id=7)])
    (folder / "_SUCCESS.parquet").write_text("")
    assert catalogue.run(folder) == 1
    assert catalogue.answered == {"p0": 1, "p1": 1, "p2": 1, 7: 1}
    assert catalogue.reasons == {"p1": "duplicate-id", "p3": "missing-column", "p4": "wrong-type"}


def test_directories_of_spark_and_linked_folders_are_read_once(catalogue, tmp_path):
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    write_questions(folder / "spark.parquet" / "part-0.parquet", [question(0)])
    (folder / "spark.parquet" / "_SUCCESS").write_text("")
    write_questions(elsewhere / "part.parquet", [question(1)])
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "spark.parquet")
    (elsewhere / "back").symlink_to(folder)
    assert catalogue.run(folder) == 0
    assert catalogue.answered == {"p0": 1, "p1": 1}


@pytest.mark.slow
def test_pictures_are_bytes_or_paths_or_urls_or_structs(catalogue, picture_server, tmp_path):
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "one.png").write_bytes(picture(1))
    paths = dict.fromkeys("abcd", "pictures/one.png")
    write_questions(folder / "paths.parquet", [question(0, original="pictures/one.png", **paths)])
    absolute = dict.fromkeys(("original", *"abcd"), str(folder / "pictures" / "one.png"))
    url = f"{picture_server}/one.png"
    write_questions(folder / "urls.parquet", [question(1, **absolute), question(2, **{**absolute, "a": url})])
    struct = {"bytes": picture(3), "path": None}
    write_questions(folder / "structs.parquet", [question(3, **dict.fromkeys(("original", *"abcd"), struct))])
    write_questions(folder / "lost.parquet", [question(4, **{**absolute, "d": "pictures/two.png"})])
    assert catalogue.run(folder) == 1
    assert catalogue.answered == {f"p{number}": 1 for number in range(4)}
    assert catalogue.reasons == {"p4": "picture-not-found"}


@pytest.mark.parametrize(("line_form", "disk_form"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_path_may_have_the_other_unicode_form(catalogue, tmp_path, line_form, disk_form):
    folder = tmp_path / "data"
    pictures = folder / unicodedata.normalize(disk_form, "café")
    pictures.mkdir(parents=True)
    (pictures / unicodedata.normalize(disk_form, "é.png")).write_bytes(picture(1))
    path = unicodedata.normalize(line_form, "café/é.png")
    write_questions(folder / "paths.parquet", [question(0, **dict.fromkeys(("original", *"abcd"), path))])
    assert catalogue.run(folder) == 0
    assert catalogue.answered == {"p0": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "url", ["{server}/missing.png", "{server}/fails.png", "file:///etc/hostname", "simplecache::{server}/one.png"]
)
def test_a_url_that_cannot_be_read_rejects_its_record_alone(catalogue, picture_server, tmp_path, url):
    sound = dict.fromkeys(("original", *"abcd"), f"{picture_server}/one.png")
    bad = question(0, **{**sound, "d": url.format(server=picture_server)})
    write_questions(tmp_path / "data" / "urls.parquet", [bad, question(1, **sound)])
    assert catalogue.run(tmp_path / "data") == 1
    assert catalogue.answered == {"p1": 1}
    assert catalogue.reasons == {"p0": "picture-not-found"}


def test_text_that_is_not_unicode_rejects_its_rows_alone(catalogue, tmp_path):
    folder = tmp_path / "data"
    write_questions(folder / "sound.parquet", [question(0)])
    damaged = pa.table(
        {
            "id": pa.Array.from_buffers(pa.string(), 2, pa.array([b"p1", b"\xff\xfe"], pa.binary()).buffers()),
            **{name: pa.array([picture(1)] * 2, pa.binary()) for name in ("original", *"abcd")},
        }
    )
    pq.write_table(damaged, folder / "text.parquet")
    assert catalogue.run(folder) == 1
    assert catalogue.answered == {"p0": 1}
    assert set(catalogue.reasons.values()) == {"unreadable-rows"}


def test_the_answers_of_an_earlier_run_are_no_input(catalogue, tmp_path):
    folder = tmp_path / "data"
    write_questions(folder / "sound.parquet", [question(0)])
    catalogue.out = folder / "screened"
    assert catalogue.run(folder) == 0
    assert catalogue.run(folder) == 0
    assert catalogue.answered == {"p0": 1}


@pytest.mark.slow
def test_large_row_groups_are_read_in_pieces_and_small_ones_together(catalogue, tmp_path):
    folder = tmp_path / "data"
    write_questions(folder / "one-group.parquet", [question(number) for number in range(150)])
    write_questions(folder / "small-groups.parquet", [question(n) for n in range(150, 170)], row_group_size=3)
    assert catalogue.run(folder, "--batch", "70") == 0
    assert catalogue.answered == {f"p{number}": 1 for number in range(170)}
    assert [row["price"] for row in catalogue.answers if row["choice"] == "C"] == [*range(2, 170, 6)]


def test_damaged_rows_are_rejected_and_screened_again_on_request(catalogue, tmp_path):
    data = tmp_path / "data.parquet"
    rows = [question(number, pad=os.urandom(20_000)) for number in range(8)]
    write_questions(data, rows, row_group_size=4, compression="none")
    sound = data.read_bytes()
    data.write_bytes(sound[:200] + b"\xff" * 400 + sound[600:])
    assert catalogue.run(data) == 1
    assert catalogue.answered == {f"p{number}": 1 for number in range(4, 8)}
    assert {row["reason"] for row in catalogue.rejects} == {"unreadable-rows"}
    assert {"id", "price", "choice"} <= set(pq.read_table(catalogue.out / "answers").column_names)
    data.write_bytes(sound)
    assert catalogue.run(data, "--retry-rejects") == 0
    assert catalogue.answered == {f"p{number}": 1 for number in range(8)}
    assert catalogue.rejects == []


@pytest.mark.parametrize("name", ["samples.jsonl", "questions.jsonl"])
def test_a_data_directory_and_a_batch_file_are_read(catalogue, small_data, tmp_path, name):
    lines = [json.loads(line) for line in (small_data / "samples.jsonl").read_text().splitlines()]
    if name == "questions.jsonl":
        for line in lines:
            files = [line["original"]["file"], *(one["file"] for one in line["generated"])]
            original, *generated = [str(small_data / file) for file in files]
            line |= {"original": original, "generated": generated, "metadata": {"sku": "1"}}
        data = tmp_path / name
        data.write_text("".join(f"{json.dumps(line)}\n" for line in [*lines, {"id": "x", "original": "o.png"}]))
    else:
        data = small_data
    assert catalogue.run(data) == (name == "questions.jsonl")
    assert catalogue.answered == {line["id"]: 1 for line in lines}
    assert [row["reason"] for row in catalogue.rejects] == ["bad-line"] * (name == "questions.jsonl")


def test_a_batch_file_is_converted_a_part_at_a_time_and_must_stay_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_LINES", 2)
    lines, out = tmp_path / "lines.jsonl", tmp_path / "out"
    out.mkdir()
    files = {"original": "o.png", "generated": ["a.png", "b.png", "c.png", "d.png"]}
    lines.write_text("".join(json.dumps({"id": f"q{number}"} | files) + "\n\n" for number in range(5)))
    (file,) = sources.find_files(lines, out)
    assert list(sources.read_ids(file)) == ["q0", "q1", "q2", "q3", "q4"]
    assert pq.read_metadata(file.path).num_row_groups == 3
    assert sources.find_files(lines, out) == [file]
    before = file.path.read_bytes()
    with lines.open("a") as more:
        more.write(json.dumps({"id": "q5"} | files))
    with pytest.raises(CatalogueError, match="has changed since"):
        sources.find_files(lines, out)
    assert file.path.read_bytes() == before and list(out.iterdir()) == [file.path]


def test_a_second_run_asks_nothing_and_new_files_are_added(catalogue, tmp_path, capsys):
    folder = tmp_path / "data"
    write_questions(folder / "b.parquet", [question(0), question(1)])
    assert catalogue.run(folder) == 0
    before = {part: part.stat().st_mtime_ns for part in catalogue.parts()}
    write_questions(folder / "a.parquet", [question(1), question(2)])
    assert catalogue.run(folder) == 1
    assert catalogue.answered == {"p0": 1, "p1": 1, "p2": 1}
    assert catalogue.reasons == {"p1": "duplicate-id"}
    assert {part: part.stat().st_mtime_ns for part in before} == before
    capsys.readouterr()
    assert catalogue.run(folder) == 1
    assert "nothing was left to screen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--mode", "direct"], "other settings"),
        (["--batch", "5"], "other settings"),
        (["--review-below", "0.9"], "other settings"),
        (["--keep", "price"], "other settings"),
    ],
)
def test_changed_settings_are_refused(catalogue, tmp_path, capsys, change, message):
    data = write_questions(tmp_path / "data.parquet", [question(0)])
    assert catalogue.run(data) == 0
    assert catalogue.run(data, *change) == 2
    assert message in capsys.readouterr().err


def test_changed_and_missing_input_is_refused(catalogue, tmp_path, capsys):
    folder = tmp_path / "data"
    file = write_questions(folder / "a.parquet", [question(0)])
    write_questions(folder / "b.parquet", [question(1)])
    assert catalogue.run(folder) == 0
    write_questions(file, [question(0), question(2)])
    assert catalogue.run(folder) == 2
    assert "a.parquet has changed since" in capsys.readouterr().err
    file.unlink()
    assert catalogue.run(folder) == 2
    assert "a.parquet is missing since" in capsys.readouterr().err


def test_input_that_cannot_be_screened_at_all_is_refused(catalogue, tmp_path, capsys):
    nothing = write_questions(tmp_path / "nothing.parquet", [{"id": "1", "picture": b""}])
    assert catalogue.run(nothing) == 2
    assert "nothing.parquet has no column original, a, b, c, d" in capsys.readouterr().err
    taken = write_questions(tmp_path / "taken.parquet", [question(0, choice="A")])
    assert catalogue.run(taken) == 2
    assert "has a column 'choice', which an answer has too" in capsys.readouterr().err
    assert catalogue.run(taken, "--keep", "cost") == 2
    text = tmp_path / "text.parquet"
    text.write_text("no Parquet")
    assert catalogue.run(text) == 2
    assert "is not a readable Parquet file" in capsys.readouterr().err
    assert catalogue.run(tmp_path / "missing") == 2


def test_only_the_kept_columns_are_copied(catalogue, tmp_path):
    data = write_questions(tmp_path / "data.parquet", [question(0, shop="s", choice="old")])
    assert catalogue.run(data, "--keep", "shop") == 0
    (row,) = catalogue.answers
    assert (row["shop"], row["choice"]) == ("s", "A")
    assert "price" not in row


def test_a_question_at_which_the_engine_fails_is_rejected(catalogue, tmp_path, monkeypatch):
    monkeypatch.setenv(FAILS_AT, "2")
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(6)])
    assert catalogue.run(data) == 1
    assert catalogue.answered == {f"p{number}": 1 for number in range(6) if number != 2}
    assert catalogue.reasons == {"p2": "engine-failed"}


@pytest.mark.slow
def test_a_record_that_kills_the_process_is_found_and_rejected(catalogue, tmp_path):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(6)])
    for _ in range(4):  # two deaths of the block, two of the record alone
        process = catalogue.start(data, **{DIES_AT: "2"})
        process.communicate(timeout=300)
        assert process.returncode == -9
    process = catalogue.start(data, **{DIES_AT: "2"})
    _, log = process.communicate(timeout=300)
    assert process.returncode == 1, log
    assert catalogue.answered == {f"p{number}": 1 for number in range(6) if number != 2}
    assert catalogue.reasons == {"p2": "worker-died"}


@pytest.mark.slow
def test_a_killed_run_continues_and_every_record_has_one_answer(catalogue, tmp_path, wait_until, wait_for_parts):
    def noted() -> set[str]:
        return {note.name for note in (catalogue.out / "attempts").iterdir()}

    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(40)])
    for parts in (2, 5):
        give_turns(turns := tmp_path / "turns", parts - len(catalogue.parts()))
        process = catalogue.start(data, **{TURNS: str(turns)})
        wait_for_parts(catalogue, parts)
        wait_until(lambda: noted().isdisjoint(part.stem for part in catalogue.parts()))  # a note goes after its part
        process.kill()
        process.communicate(timeout=300)
    assert len(catalogue.parts()) == 5
    process = catalogue.start(data)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert catalogue.answered == {f"p{number}": 1 for number in range(40)}
    assert not noted()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_does_not_wait_for_its_blocks_and_blames_none(catalogue, tmp_path, wait_until, sent):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(8)])
    notes = catalogue.out / "attempts"
    give_turns(turns := tmp_path / "turns", 0)
    with catalogue.start(data, **{TURNS: str(turns)}) as process:
        try:
            wait_until(lambda: len([*notes.glob("*")]) == 2)
            process.send_signal(sent)
            _, log = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 128 + sent
    assert "Traceback" not in log
    assert [note.read_text() for note in notes.iterdir()] == ["", ""]
    assert catalogue.run(data) == 0
    assert catalogue.answered == {f"p{number}": 1 for number in range(8)}


def test_an_engine_that_dies_while_the_run_stops_is_not_started_again():
    starts: list[str] = []

    def ask(_questions):
        engine.stopping.set()
        raise Unfinished("the engine died")

    @contextmanager
    def start():
        starts.append("an engine")
        yield OfflineEngine(ask, LETTERS)

    with LastingEngine(start) as engine, pytest.raises(Unfinished):
        engine.ask([[]])
    assert len(starts) == 1


@pytest.mark.slow
def test_a_second_process_on_the_same_output_is_refused(catalogue, tmp_path, wait_for_parts):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(40)])
    give_turns(turns := tmp_path / "turns", 1)
    process = catalogue.start(data, **{TURNS: str(turns)})
    wait_for_parts(catalogue, 1)
    assert catalogue.run(data) == 2
    process.kill()
    process.communicate(timeout=300)
