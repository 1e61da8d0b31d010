"""The command line: what it prints, its exit codes, and a batch that can be continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from screening_client import batch, cli
from screening_client.errors import InputError


@pytest.fixture
def pictures(tmp_path: Path, five: tuple[bytes, ...]) -> list[str]:
    """Five files: the original and A to D."""
    names = ["original.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for name, data in zip(names, five, strict=True):
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in names]


def write_batch(folder: Path, ids: list[str]) -> Path:
    rows = [{"id": each, "original": "original.jpg", "generated": [f"{x}.jpg" for x in "abcd"]} for each in ids]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_batch(server: Any, source: Path, *more: str) -> int:
    out = str(source.parent / "out.jsonl")
    return cli.main(["batch", str(source), "--out", out, "--base-url", server.url, "--concurrency", "2", *more])


def written(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "out.jsonl").read_text().splitlines()]


def test_a_screening_is_printed_for_people(server: Any, pictures: list[str], capsys: Any) -> None:
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == cli.OK
    out = capsys.readouterr().out
    for said in ("C (also acceptable: A)", "0.93", "tiny 1 on scripted", "appearance deformation", "shadow: two suns"):
        assert said in out
    assert "I ultimately chose AC" in out and max(map(len, out.splitlines())) <= 100


def test_control_characters_of_a_model_do_not_reach_the_terminal(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.good(reasoning="red \x1b[31m\x07 text")]
    cli.main(["screen", *pictures, "--base-url", server.url])
    assert "\x1b" not in capsys.readouterr().out


def test_json_is_the_service_s_answer(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.good(from_the_future=1)]
    arguments = ["screen", *pictures, "--json", "--mode", "direct", "--api-key", "k", "--base-url", server.url]
    assert cli.main(arguments) == cli.OK
    assert json.loads(capsys.readouterr().out)["from_the_future"] == 1
    assert b"direct" in server.received[0].body and server.received[0].headers["Authorization"] == "Bearer k"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 1), (401, 1), (422, 1), (500, 1), (408, 3), (409, 3), (429, 3), (503, 3), (504, 3)],
)
def test_each_status_has_its_exit_code(
    server: Any, pictures: list[str], quick: None, capsys: Any, status: int, code: int
) -> None:
    server.replies = [server.problem(status, "some-slug")]
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == code
    assert "some-slug" in capsys.readouterr().err


def test_unusable_files_and_settings_exit_with_2(server: Any, pictures: list[str], capsys: Any) -> None:
    assert cli.main(["screen", *pictures[:4], "missing.jpg", "--base-url", server.url]) == cli.USAGE
    assert "generated[3]: missing.jpg" in capsys.readouterr().err
    assert cli.main(["screen", *pictures, "--base-url", "nonsense"]) == cli.USAGE
    assert cli.main(["screen", *pictures, "--base-url", server.url, "--timeout", "-1"]) == cli.USAGE
    with pytest.raises(SystemExit, match="2"):
        cli.main(["screen", *pictures[:3], "--base-url", server.url])
    assert server.received == []


def test_nobody_there_exits_with_3(pictures: list[str], quick: None) -> None:
    assert cli.main(["screen", *pictures, "--base-url", "http://127.0.0.1:1"]) == cli.LATER


def test_an_unreadable_answer_exits_with_4(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.good(outcome="unreadable", choice=None, acceptable=[], unreadable_reason="no_answer")]
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == cli.UNREADABLE
    assert "no_answer" in capsys.readouterr().out


def test_ready_says_so(server: Any, quick: None, capsys: Any) -> None:
    assert cli.main(["ready", "--base-url", server.url]) == cli.OK
    server.replies = [server.problem(503)]
    assert cli.main(["ready", "--base-url", server.url]) == cli.LATER
    assert cli.main(["ready", "--wait", "0.05", "--base-url", server.url]) == cli.LATER


def test_help_names_every_exit_code(capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for code in (cli.OK, cli.FAILED, cli.USAGE, cli.LATER, cli.UNREADABLE, cli.INTERRUPTED):
        assert f"\n    {code} " in out


def test_the_readme_names_every_command_and_option(repository: Path) -> None:
    readme = (repository / "clients/python/README.md").read_text()
    for command in ("screen", "batch", "ready"):
        help_text = subprocess.run(
            [sys.executable, "-m", "screening_client", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        options = {word.strip("[],") for word in help_text.split() if word.strip("[],").startswith("--")} - {"--help"}
        assert f"screening-client {command}" in readme
        assert [option for option in sorted(options) if option not in readme] == []


def test_a_batch_answers_every_line_and_skips_them_the_second_time(
    server: Any, pictures: list[str], tmp_path: Path, capsys: Any
) -> None:
    source = write_batch(tmp_path, ["1", "2", "3"])
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path)) == ["1", "2", "3"]
    assert run_batch(server, source) == cli.OK
    assert len(server.received) == len(written(tmp_path)) == 3
    assert "0 screened, 3 had an answer already, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_half_written_last_line_is_done_again(server: Any, pictures: list[str], tmp_path: Path, cut: int) -> None:
    source = write_batch(tmp_path, ["1", "2", "3"])
    run_batch(server, source)
    out = tmp_path / "out.jsonl"
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    assert run_batch(server, source) == cli.OK
    assert len(server.received) == 4 and sorted(written(tmp_path)) == ["1", "2", "3"]


@pytest.mark.parametrize("content", [b"a letter to my aunt", b"one\ntwo\n", b'{"id": 4}\n', b'{"id": "1"}\n', b"\n"])
def test_another_file_is_never_written_to(server: Any, pictures: list[str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.jsonl").write_bytes(content)
    assert run_batch(server, write_batch(tmp_path, ["1"])) == cli.USAGE
    assert (tmp_path / "out.jsonl").read_bytes() == content and server.received == []


def test_bad_lines_fail_alone_and_are_told(server: Any, pictures: list[str], tmp_path: Path, capsys: Any) -> None:
    source = write_batch(tmp_path, ["1", "1", "2"])
    good = json.loads(source.read_text().splitlines()[0])
    bad = [
        {**good, "id": "missing", "original": "nowhere.jpg"},
        {**good, "id": "three", "generated": ["a.jpg"] * 3},
        {**good, "id": "extra", "colour": "red"},
        {**good, "id": "shape", "generated": "a.jpg"},
        {**good, "id": "fast", "mode": "fast"},
        {**good, "id": 4},
        ["list"],
    ]
    text = source.read_text() + "\n".join(json.dumps(row) for row in bad) + "\n\nnot json\n"
    source.write_text(text)
    assert run_batch(server, source) == cli.FAILED
    captured = capsys.readouterr()
    assert sorted(written(tmp_path)) == ["1", "2"]
    assert "2 screened, 0 had an answer already, 9 failed" in captured.out
    for said in ("line 2: id '1'", "nowhere.jpg", "has 3 pictures", "colour", "shape:", "'fast'", "line 9", "line 12"):
        assert said in captured.err


def test_hostile_lines_and_answers_do_not_end_a_batch(server: Any, pictures: list[str], tmp_path: Path) -> None:
    source = write_batch(tmp_path, ["1", "2"])
    source.write_text("[" * 200_000 + "\n" + source.read_text())
    server.replies = [server.good(reasoning="half of a pair: \ud83d")]
    assert run_batch(server, source) == cli.FAILED
    assert sorted(written(tmp_path)) == ["1", "2"]
    (tmp_path / "out.jsonl").write_text("[" * 200_000 + "\n")
    assert run_batch(server, source) == cli.USAGE


def test_a_batch_counts_the_answers_that_could_not_be_read(
    server: Any, pictures: list[str], tmp_path: Path, capsys: Any
) -> None:
    unreadable = server.good(outcome="unreadable", choice=None, acceptable=[], unreadable_reason="no_answer")
    server.replies = [server.good(), unreadable]
    source = write_batch(tmp_path, ["1", "2", "3"])
    assert run_batch(server, source) == cli.UNREADABLE
    out = capsys.readouterr().out
    assert "3 screened" in out and "2 of the screened" in out
    assert sorted(written(tmp_path)) == ["1", "2", "3"]
    source.write_text(source.read_text().replace('"3"', '"4"') + "not json\n")
    assert run_batch(server, source) == cli.FAILED


def test_failed_requests_are_tried_by_the_next_run(server: Any, pictures: list[str], tmp_path: Path) -> None:
    source = write_batch(tmp_path, ["1", "2"])
    server.replies = [server.problem(422), server.good()]
    assert run_batch(server, source, "--concurrency", "1") == cli.FAILED
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path)) == ["1", "2"]


def test_files_that_cannot_be_opened_exit_with_2(server: Any, pictures: list[str], tmp_path: Path) -> None:
    assert run_batch(server, tmp_path / "none.jsonl") == cli.USAGE
    source = write_batch(tmp_path, ["1"])
    assert run_batch(server, source, "--out", str(tmp_path / "no" / "folder.jsonl")) == cli.USAGE
    assert run_batch(server, source, "--out", str(tmp_path)) == cli.USAGE
    assert run_batch(server, source, "--concurrency", "0") == cli.USAGE


def test_ctrl_c_stops_a_batch_that_can_be_continued(server: Any, pictures: list[str], tmp_path: Path) -> None:
    source = write_batch(tmp_path, [str(number) for number in range(6)])
    server.replies = [server.good(), server.good(), server.problem(503, retry_after=100)]
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "screening_client", "batch", source, "--out", out, "--base-url", server.url]
    process = subprocess.Popen([*map(str, command), "--concurrency", "1"], stderr=subprocess.PIPE, env=os.environ)
    while len(server.received) < 3 and process.poll() is None:
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED and b"Traceback" not in err
    assert written(tmp_path) == ["0", "1"]
    server.replies = [server.good()]
    assert run_batch(server, source) == cli.OK
    assert sorted(written(tmp_path)) == [str(number) for number in range(6)]


def test_a_batch_is_read_as_places_become_free(server: Any, pictures: list[str], tmp_path: Path) -> None:
    """A line is opened for its pictures only when its turn comes."""
    source = write_batch(tmp_path, ["1", "2"])
    (tmp_path / "d.jpg").unlink()
    failures: list[tuple[str, str]] = []
    with cli.Client(base_url=server.url) as client:
        counts = batch.run_batch(
            client,
            source,
            tmp_path / "out.jsonl",
            concurrency=1,
            on_failure=lambda name, error: failures.append((name, type(error).__name__)),
        )
    assert counts.failed == 2 and failures == [("1", InputError.__name__), ("2", InputError.__name__)]
