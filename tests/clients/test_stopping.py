"""The command with pipes, devices, full disks and signals."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening_client import cli

pytestmark = pytest.mark.slow

STDOUT = pytest.mark.parametrize("stdout", ["-", "/dev/stdout", "/dev/fd/1"])


def start(server: Any, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "screening_client", *map(str, arguments), "--base-url", server.url]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **(pipes | options))


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition() and process.poll() is None:
        threading.Event().wait(0.01)


def ids(text: str) -> list[Any]:
    return [json.loads(line)["id"] for line in text.splitlines()]


@STDOUT
def test_answers_go_to_a_pipe_and_everything_else_to_stderr(server: Any, write_batch: Any, stdout: str) -> None:
    out, err = start(server, "batch", write_batch(1, 2, 3), "--out", stdout).communicate(timeout=60)
    assert sorted(ids(out)) == [1, 2, 3]
    assert err == "3 screened, 0 skipped (answered before), 0 failed\n"


def test_answers_go_to_a_redirected_file(server: Any, write_batch: Any, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        process = start(server, "batch", write_batch(1, 2), "--out", "-", stdout=file)
        process.communicate(timeout=60)
    assert process.returncode == cli.OK
    assert sorted(ids((tmp_path / "out").read_text())) == [1, 2]


@STDOUT
def test_a_reader_that_ends_ends_the_batch_quietly(server: Any, write_batch: Any, stdout: str) -> None:
    """Read one line and close the pipe, as `| head -1` does."""
    process = start(server, "batch", write_batch(*range(1000)), "--out", stdout, "--concurrency", "1")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == cli.CLOSED_PIPE and process.stderr.read() == ""
    process.stderr.close()
    assert len(server.received) < 1000


@pytest.mark.parametrize("command", ["screen", "ready", "--help"])
def test_every_command_ends_quietly_without_a_reader(server: Any, pictures: list[str], command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start(server, *([command, *pictures] if command == "screen" else [command]), stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert err == "" and (process.returncode == cli.CLOSED_PIPE or command == "--help")


def test_a_fifo_and_a_device_are_written_to(server: Any, write_batch: Any, tmp_path: Path) -> None:
    source, fifo = write_batch(1, 2), tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start(server, "batch", source, "--out", fifo)
    assert sorted(ids(fifo.read_text())) == [1, 2]
    assert process.wait(60) == cli.OK and fifo.is_fifo()
    process.communicate()
    assert cli.main(["batch", str(source), "--out", os.devnull, "--base-url", server.url]) == cli.OK
    assert Path(os.devnull).is_char_device()


def test_lines_come_from_a_pipe_and_answers_before_it_ends(server: Any, write_batch: Any, tmp_path: Path) -> None:
    """Paths are relative to the current folder then."""
    lines = write_batch(1, 2).read_text().splitlines(keepends=True)
    process = start(server, "batch", "-", "--out", "-", cwd=tmp_path, stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    for line in lines:
        process.stdin.write(line)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == json.loads(line)["id"]
    process.communicate(timeout=60)
    assert process.returncode == cli.OK


def test_lines_come_from_a_fifo(server: Any, write_batch: Any, tmp_path: Path) -> None:
    text, fifo = write_batch(1, 2).read_text(), tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start(server, "batch", fifo, "--out", "-")
    fifo.write_text(text)
    out, _ = process.communicate(timeout=60)
    assert sorted(ids(out)) == [1, 2]


def test_a_full_device_ends_a_batch_with_one_sentence(server: Any, write_batch: Any) -> None:
    process = start(server, "batch", write_batch(1, 2), "--out", "/dev/full")
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.OUTPUT
    assert err == "screening-client: /dev/full cannot be written: No space left on device\n"


def test_a_full_device_under_stdout_is_one_sentence(server: Any, pictures: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(server, "screen", *pictures, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == cli.OUTPUT
    assert err == "screening-client: the output cannot be written: No space left on device\n"


def test_a_full_disk_leaves_whole_lines_and_a_batch_that_can_be_continued(
    server: Any, write_batch: Any, tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    source, out = write_batch(*range(20)), tmp_path / "out.jsonl"
    process = start(server, "batch", source, "--out", out, preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.OUTPUT and err == f"screening-client: {out} cannot be written: File too large\n"
    before = out.read_text()
    assert before.endswith("\n") and 0 < len(ids(before)) < 20
    assert cli.main(["batch", str(source), "--out", str(out), "--base-url", server.url]) == cli.OK
    assert out.read_text().startswith(before) and sorted(ids(out.read_text())) == list(range(20))


@pytest.mark.parametrize("arguments", [["batch", "-", "--out", "out.jsonl"], ["screen", "-", *"abcd"]])
def test_a_closed_standard_input_is_named(server: Any, arguments: list[str], tmp_path: Path) -> None:
    process = start(server, *arguments, cwd=tmp_path, preexec_fn=lambda: os.close(0))
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.USAGE and "the standard input is closed" in err


def test_a_closed_standard_output_is_named(server: Any, write_batch: Any) -> None:
    process = start(server, "batch", write_batch(1), "--out", "-", preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.USAGE and "the standard output is closed" in err and server.received == []


def close_stderr() -> None:
    os.close(2)


def fill_stderr() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


def break_stderr() -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 2)


@pytest.mark.parametrize("spoil", [close_stderr, fill_stderr, break_stderr])
def test_a_batch_continues_without_a_stderr(
    server: Any, write_batch: Any, tmp_path: Path, spoil: Callable[[], None]
) -> None:
    source = write_batch(1, 2)
    with source.open("a") as file:
        file.write("not json\n")
    process = start(server, "batch", source, "--out", tmp_path / "out.jsonl", preexec_fn=spoil)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == cli.FAILED and out.startswith("2 screened")
    assert sorted(ids((tmp_path / "out.jsonl").read_text())) == [1, 2]


def test_a_file_under_a_device_s_name_is_appended_to_and_not_read(
    server: Any, write_batch: Any, tmp_path: Path
) -> None:
    """`--out /dev/stderr 2>> notes` must neither take the notes for results nor cut them off."""
    notes = tmp_path / "notes"
    notes.write_text("my notes")
    with notes.open("a") as file:
        process = start(server, "batch", write_batch(1), "--out", "/dev/stderr", stderr=file)
        process.communicate(timeout=60)
    assert process.returncode == cli.OK and notes.read_text().startswith('my notes{"id": 1')


SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, cli.INTERRUPTED), (signal.SIGTERM, cli.TERMINATED)]
)


@SIGNALS
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_signal_ends_a_batch_while_the_service_hangs(
    server: Any, write_batch: Any, tmp_path: Path, number: int, code: int, concurrency: int
) -> None:
    server.replies = [server.good(), server.good(), type(server.good())(hang=True)]
    source, out = write_batch(*range(20)), tmp_path / "out.jsonl"
    process = start(server, "batch", source, "--out", out, "--concurrency", concurrency)
    until(lambda: len(server.received) == 2 + concurrency and out.read_text().count("\n") == 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)  # the service would hang for longer
    assert process.returncode == code and err == "screening-client: stopped\n"
    assert len(ids(out.read_text())) == 2
    server.replies = [server.good()]
    assert cli.main(["batch", str(source), "--out", str(out), "--base-url", server.url]) == cli.OK
    assert sorted(ids(out.read_text())) == list(range(20))


@SIGNALS
def test_a_signal_ends_a_batch_that_waits_to_try_again(
    server: Any, write_batch: Any, tmp_path: Path, number: int, code: int
) -> None:
    server.replies = [server.problem(503, retry_after=100)]
    process = start(server, "batch", write_batch(*range(20)), "--out", tmp_path / "out.jsonl")
    until(lambda: len(server.received) == 8, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code and len(server.received) == 8


@SIGNALS
def test_a_signal_ends_a_batch_that_waits_for_its_input(server: Any, number: int, code: int) -> None:
    read, write = os.pipe()
    os.write(write, b"not json\n")
    process = start(server, "batch", "-", "--out", "-", stdin=read)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    os.close(read)
    os.close(write)
    assert process.returncode == code and err == "screening-client: stopped\n"


@SIGNALS
def test_a_signal_ends_a_single_screening(server: Any, pictures: list[str], number: int, code: int) -> None:
    server.replies = [type(server.good())(hang=True)]
    process = start(server, "screen", *pictures)
    until(lambda: server.received, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and err == "screening-client: stopped\n"
