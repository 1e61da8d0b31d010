"""A batch: a file of lines, a file of results that can be continued, and bad lines that fail alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from screening_client import Client, batch, batch_lines, cli
from screening_client.batch_results import Results


def run_batch(server: Any, source: Path, *more: str) -> int:
    out = str(source.parent / "out.jsonl")
    return cli.main(["batch", str(source), "--out", out, "--base-url", server.url, "--concurrency", "2", *more])


def written(folder: Path) -> list[Any]:
    return [json.loads(line)["id"] for line in (folder / "out.jsonl").read_text().splitlines()]


def test_a_batch_answers_every_line_and_skips_them_the_second_time(
    server: Any, write_batch: Any, tmp_path: Path, capsys: Any
) -> None:
    source = write_batch("1", "2", "3")
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path)) == ["1", "2", "3"]
    assert run_batch(server, source) == cli.OK
    assert len(server.received) == len(written(tmp_path)) == 3
    assert "0 screened, 3 skipped (answered before), 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_half_written_last_line_is_repeated(server: Any, write_batch: Any, tmp_path: Path, cut: int) -> None:
    source = write_batch("1", "2", "3")
    run_batch(server, source)
    out = tmp_path / "out.jsonl"
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    assert run_batch(server, source) == cli.OK
    assert len(server.received) == 4 and sorted(written(tmp_path)) == ["1", "2", "3"]


@pytest.mark.parametrize("content", [b"a letter to my aunt", b"one\ntwo\n", b'{"id": 4}\n', b'{"id": "1"}\n', b"\n"])
def test_another_file_is_never_written_to(server: Any, write_batch: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.jsonl").write_bytes(content)
    assert run_batch(server, write_batch("1")) == cli.USAGE
    assert (tmp_path / "out.jsonl").read_bytes() == content and server.received == []


BAD_LINES = {
    "lone surrogate in metadata": (
        rb'{"id": "x", %s, "metadata": {"name": "\ud83d"}}',
        r"'metadata' contains '\ud83d'",
    ),
    "lone surrogate in a path": (
        rb'{"id": "x", "original": "\udc00.jpg", "generated": []}',
        r"'original' contains '\udc00'",
    ),
    "lone surrogate in the id": (rb'{"id": "\ud83d", %s}', r"'id' contains '\ud83d'"),
    "lone surrogate in a field's name": (rb'{"id": "x", %s, "\ud83d": 1}', "one half of a surrogate pair"),
    "not JSON": (b"not json", "not JSON"),
    "cut off": (b'{"id": "x", "original": "orig', "not JSON"),
    "not UTF-8": (b'{"id": "M\xfcller", %s}', "not UTF-8: byte 10 of the line is 0xfc"),
    "null byte": (b'{"id": "x\x00", %s}', "not JSON"),
    "null character in a path": (rb'{"id": "x", "original": "\u0000", "generated": ["a","b","c","d"]}', "original"),
    "deep list": (b"[" * 200_000, "nested too deeply"),
    "deep metadata": (b'{"id": "x", %s, "metadata": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "deeply"),
    "huge line": (b'{"id": "x", "original": "' + b"x" * 3_000_000 + b'"}', "longer than 1,048,576 bytes"),
    "huge number": (b'{"id": ' + b"1" * 5000 + b", %s}", "not JSON"),
    "NaN in metadata": (b'{"id": "x", %s, "metadata": {"a": NaN}}', "NaN is not a JSON value"),
    "infinity in metadata": (b'{"id": "x", %s, "metadata": {"a": 1e999}}', "metadata"),
    "metadata is a list": (b'{"id": "x", %s, "metadata": [1]}', "metadata must be an object"),
    "no object": (b'["list"]', "must be a JSON object"),
    "no id": (b"{%s}", '"id" must be'),
    "id is empty": (b'{"id": "", %s}', '"id" must be'),
    "id is true": (b'{"id": true, %s}', '"id" must be'),
    "id is infinite": (b'{"id": 1e999, %s}', '"id" must be'),
    "id is a list": (b'{"id": [1], %s}', '"id" must be'),
    "id of an earlier line": (b'{"id": "1", %s}', "line 1 has the same id"),
    "id of an earlier line as a number": (b'{"id": 1, %s}', "line 1 has the same id"),
    "missing file": (b'{"id": "x", "original": "nowhere.jpg", "generated": ["a","b","c","d"]}', "nowhere.jpg"),
    "directory": (b'{"id": "x", "original": ".", "generated": ["a","b","c","d"]}', "is not a regular file"),
    "pipe": (b'{"id": "x", "original": "pipe", "generated": ["a","b","c","d"]}', "is not a regular file"),
    "device": (b'{"id": "x", "original": "/dev/zero", "generated": ["a","b","c","d"]}', "is not a regular file"),
    "name too long": (b'{"id": "x", "original": "' + b"x" * 300 + b'", "generated": ["a","b","c","d"]}', "too long"),
    "URL": (
        b'{"id": "x", "original": "https://a.example/o.jpg", "generated": ["a","b","c","d"]}',
        "https://a.example/o",
    ),
    "three pictures": (b'{"id": "x", "original": "original.jpg", "generated": ["a","b","c"]}', "has 3 pictures"),
    "generated is a text": (b'{"id": "x", "original": "original.jpg", "generated": "abcd"}', "a list of four paths"),
    "generated are numbers": (
        b'{"id": "x", "original": "original.jpg", "generated": [1,2,3,4]}',
        "a list of four paths",
    ),
    "original is null": (b'{"id": "x", "original": null, "generated": ["a","b","c","d"]}', "original must be a path"),
    "unknown field": (b'{"id": "x", %s, "colour": "red"}', "unknown field 'colour'"),
    "unknown mode": (b'{"id": "x", %s, "mode": "fast"}', "'fast'"),
    "threshold is a text": (b'{"id": "x", %s, "review_below": "low"}', "review_below is 'low'"),
    "threshold is true": (b'{"id": "x", %s, "review_below": true}', "review_below is True"),
    "mode is a list": (b'{"id": "x", %s, "mode": ["cot"]}', "mode is"),
}
GOOD = b'"original": "original.jpg", "generated": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]'


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_fails_alone_with_its_reason(
    server: Any, write_batch: Any, tmp_path: Path, capsys: Any, kind: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    line, said = BAD_LINES[kind]
    source = write_batch("1", "2", "3", "4")
    lines = source.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join([*lines[:2], line.replace(b"%s", GOOD) + b"\n", *lines[2:]]))
    assert run_batch(server, source) == cli.FAILED
    captured = capsys.readouterr()
    assert sorted(written(tmp_path)) == ["1", "2", "3", "4"]
    assert captured.err.startswith("line 3") and said in captured.err and captured.err.count("\n") == 1
    assert "4 screened, 0 skipped (answered before), 1 failed" in captured.out
    assert run_batch(server, source) == cli.FAILED, "and again by the next run"
    assert len(server.received) == 4


def test_an_unexpected_fault_of_one_line_does_not_end_the_others(
    server: Any, write_batch: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch._check_files

    def faulty(request: Any) -> None:
        if request.metadata:
            raise ZeroDivisionError("a fault")
        real(request)

    monkeypatch.setattr(batch, "_check_files", faulty)
    source = write_batch("1", "2")
    with source.open("ab") as file:
        file.write(b'{"id": "3", %s, "metadata": {"a": 1}}\n' % GOOD)
    assert run_batch(server, source) == cli.FAILED
    assert sorted(written(tmp_path)) == ["1", "2"] and "line 3, id 3: " in capsys.readouterr().err


def test_control_characters_of_a_line_do_not_reach_the_terminal(server: Any, write_batch: Any, capsys: Any) -> None:
    source = write_batch("\x1b[31m")
    source.write_text(source.read_text().replace("original.jpg", "\\u001b[2J.jpg"))
    assert run_batch(server, source) == cli.FAILED
    assert "\x1b" not in capsys.readouterr().err


def test_failures_and_counts_are_json_where_json_is_asked_for(server: Any, write_batch: Any, capsys: Any) -> None:
    source = write_batch(1, 2)
    with source.open("ab") as file:
        file.write(b"not json\n" + b'{"id": 9, "original": "nowhere", "generated": ["a","b","c","d"]}\n')
    assert run_batch(server, source, "--json") == cli.FAILED
    captured = capsys.readouterr()
    failures = {each["line"]: each for each in map(json.loads, captured.err.splitlines())}
    assert (failures[3]["id"], failures[4]["id"]) == (None, 9)
    assert all(each["error"]["kind"] == "InputError" and each["error"]["message"] for each in failures.values())
    assert json.loads(captured.out) == {"screened": 2, "skipped": 0, "failed": 2, "unreadable": 0}


def test_numbers_are_ids_and_come_back_as_numbers(server: Any, write_batch: Any, tmp_path: Path) -> None:
    source = write_batch(1, "2", 3.5, -4)
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path), key=str) == [-4, 1, "2", 3.5]
    assert run_batch(server, source) == cli.OK
    assert run_batch(server, write_batch("1", 2)) == cli.OK
    assert len(server.received) == 4, "a number and a text of the same digits are one id"


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_read(
    server: Any, write_batch: Any, tmp_path: Path
) -> None:
    source = write_batch("1", "2")
    one, two = source.read_bytes().splitlines()
    source.write_bytes(b"\xef\xbb\xbf" + one + b"\r\n\r\n  \n" + two)
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path)) == ["1", "2"]


def test_a_utf_16_file_is_named(server: Any, write_batch: Any, capsys: Any) -> None:
    source = write_batch("1")
    source.write_bytes(source.read_text().encode("utf-16"))
    assert run_batch(server, source) == cli.FAILED
    assert "the file is UTF-16 or UTF-32; save it as UTF-8" in capsys.readouterr().err


def test_lines_are_found_wherever_the_pieces_end(
    server: Any, write_batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lines, "_PIECE", 7)
    monkeypatch.setattr(batch_lines, "LONGEST_LINE", 150)
    source = write_batch(*"12345")
    lines = source.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join([*lines[:3], b"x" * 151 + b"\n", *lines[3:]]).rstrip() + b"\n" + b"y" * 1000)
    assert run_batch(server, source) == cli.FAILED
    assert sorted(written(tmp_path)) == list("12345")


def test_common_settings_of_a_batch_are_given_once(server: Any, write_batch: Any) -> None:
    source = write_batch("1")
    with source.open("ab") as file:
        file.write(b'{"id": "2", %s, "mode": "cot", "metadata": {"shop": "its own"}, "review_below": 0.9}\n' % GOOD)
    options = ["--mode", "direct", "--metadata", "shop=4", "--metadata", "run=7", "--review-below", "0.7"]
    assert run_batch(server, source, *options, "--concurrency", "1") == cli.OK
    first, second = (received.body for received in server.received)
    assert b"direct" in first and b'{"shop": "4", "run": "7"}' in first
    assert b"\r\n0.7\r\n" in first and b"\r\n0.9\r\n" in second
    assert b"direct" not in second and b'{"shop": "its own", "run": "7"}' in second


def test_unreadable_answers_are_asked_for_again_on_demand(server: Any, write_batch: Any, tmp_path: Path) -> None:
    unreadable = server.good(outcome="unreadable", choice=None, acceptable=[], unreadable_reason="no_answer")
    server.replies = [server.good(), unreadable, unreadable, unreadable, server.good()]
    source = write_batch("1", "2", "3")
    one_by_one = ["--concurrency", "1"]
    assert run_batch(server, source, *one_by_one) == cli.UNREADABLE
    assert run_batch(server, source, *one_by_one) == cli.OK, "nothing is asked again without the option"
    assert run_batch(server, source, *one_by_one, "--retry-unreadable") == cli.UNREADABLE
    assert written(tmp_path) == ["1", "2", "3", "2", "3"], "earlier answers stay; the last line of an id counts"
    assert run_batch(server, source, *one_by_one, "--retry-unreadable") == cli.OK
    assert written(tmp_path) == ["1", "2", "3", "2", "3", "2"]
    assert len(server.received) == 6


def test_hostile_lines_and_answers_do_not_end_a_batch(server: Any, write_batch: Any, tmp_path: Path) -> None:
    source = write_batch("1", "2")
    source.write_text("[" * 200_000 + "\n" + source.read_text())
    server.replies = [server.good(reasoning="half of a pair: \ud83d")]
    assert run_batch(server, source) == cli.FAILED
    assert sorted(written(tmp_path)) == ["1", "2"]
    (tmp_path / "out.jsonl").write_text("[" * 200_000 + "\n")
    assert run_batch(server, source) == cli.USAGE


def test_a_batch_counts_the_answers_that_could_not_be_read(
    server: Any, write_batch: Any, tmp_path: Path, capsys: Any
) -> None:
    unreadable = server.good(outcome="unreadable", choice=None, acceptable=[], unreadable_reason="no_answer")
    server.replies = [server.good(), unreadable]
    source = write_batch("1", "2", "3")
    assert run_batch(server, source) == cli.UNREADABLE
    out = capsys.readouterr().out
    assert "3 screened" in out and "2 of the screened" in out
    assert sorted(written(tmp_path)) == ["1", "2", "3"]
    source.write_text(source.read_text().replace('"3"', '"4"') + "not json\n")
    assert run_batch(server, source) == cli.FAILED


def test_failed_requests_are_tried_by_the_next_run(server: Any, write_batch: Any, tmp_path: Path) -> None:
    source = write_batch("1", "2")
    server.replies = [server.problem(422), server.good()]
    assert run_batch(server, source, "--concurrency", "1") == cli.FAILED
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path)) == ["1", "2"]


def test_files_that_cannot_be_opened_exit_with_2(server: Any, write_batch: Any, tmp_path: Path) -> None:
    assert run_batch(server, tmp_path / "none.jsonl") == cli.USAGE
    source = write_batch("1")
    assert run_batch(server, source, "--out", str(tmp_path / "no" / "folder.jsonl")) == cli.USAGE
    assert run_batch(server, source, "--out", str(tmp_path)) == cli.USAGE
    assert run_batch(server, source, "--concurrency", "0") == cli.USAGE


def test_a_batch_is_read_as_places_become_free(server: Any, write_batch: Any, tmp_path: Path) -> None:
    """The pictures of a line are opened only when the line is sent."""
    source = write_batch("1", "2")
    (tmp_path / "d.jpg").unlink()
    failures: list[tuple[str, str]] = []
    with Client(base_url=server.url) as client:
        counts = batch.run_batch(
            client,
            str(source),
            str(tmp_path / "out.jsonl"),
            concurrency=1,
            on_failure=lambda failure: failures.append((failure.name, type(failure.error).__name__)),
        )
    assert counts.failed == 2 and failures == [("line 1, id 1", "InputError"), ("line 2, id 2", "InputError")]


def test_two_batches_do_not_write_to_one_file(server: Any, write_batch: Any, tmp_path: Path, capsys: Any) -> None:
    source, out = write_batch("1"), tmp_path / "out.jsonl"
    with Results(str(out)):
        assert run_batch(server, source) == cli.USAGE
        assert "another batch is writing to" in capsys.readouterr().err
    assert server.received == []
    assert run_batch(server, source) == cli.OK


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_wide_encodings_are_named(server: Any, write_batch: Any, capsys: Any, encoding: str) -> None:
    source = write_batch("1")
    source.write_bytes(source.read_text().encode(encoding))
    assert run_batch(server, source) == cli.FAILED
    assert "UTF-16 or UTF-32" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://x.example/a.jpg", "HTTPS://x.example/a.jpg", "s3://bucket/a.jpg"])
def test_a_url_in_a_line_is_named_as_it_stands(server: Any, write_batch: Any, capsys: Any, url: str) -> None:
    source = write_batch("1")
    source.write_text(source.read_text().replace("original.jpg", url))
    assert run_batch(server, source) == cli.FAILED
    assert f"original is a URL ({url})" in capsys.readouterr().err


def test_places_without_reasoning_are_refused_before_the_first_line(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{}\n")
    assert run_batch(server, source, "--mode", "direct", "--locate") == cli.USAGE
    assert "--locate needs --mode cot" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
