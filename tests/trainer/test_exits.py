"""Ctrl-C, a full disk and a file that cannot be read end every command in one sentence."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import loadtest.__main__ as loadtest_main
import trainer.__main__ as trainer_main
from trainer.__main__ import COMMANDS, main


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_in_one_line(
    command: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    def fails(args: argparse.Namespace) -> int:
        raise error

    module = importlib.import_module(COMMANDS[command][0])
    monkeypatch.setattr(module, "run", fails)
    monkeypatch.setattr(module, "add_arguments", lambda parser: parser.add_argument("--out", default="OUT"))
    assert main([command]) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert isinstance(error, KeyboardInterrupt) or "OUT cannot be written: No space left on device" in said


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "full"), 1)])
@pytest.mark.parametrize("command", loadtest_main.COMMANDS)
def test_the_load_tests_end_in_one_line_too(
    command: str,
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import argparse

    def fails(args: argparse.Namespace) -> int:
        raise error

    module = importlib.import_module(loadtest_main.COMMANDS[command][0])
    monkeypatch.setattr(module, "run", fails)
    monkeypatch.setattr(module, "add_arguments", lambda parser: parser.add_argument("--out", default="OUT"))
    assert loadtest_main.main([command]) == status
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_no_bad_input_even_if_a_command_reports_it(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    out = tmp_path / "out"
    assert main(["annotate", "ground-truth", "--data", str(small_data), "--out", str(out)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {out}") and "No space left on device; free some space" in said


def test_an_internal_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.training.plan.command

    def fails(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(trainer.training.plan.command, "run", fails)
    with pytest.raises(ZeroDivisionError):
        main(["plan", "tiny"])


def test_a_file_of_rendering_that_meets_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    out = tmp_path / "out"
    assert main(["render", "--count", "1", "--seed", "1", "--size", "96", "--workers", "1", "--out", str(out)]) == 1
    assert f"{out} cannot be written: No space left on device" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_a_command_and_its_workers_in_one_line(workers: str, tmp_path: Path, repository: Path) -> None:
    drawn = ["--count", "10000", "--seed", "1", "--size", "96", "--workers", workers]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "render", *drawn, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=repository,
        start_new_session=True,
    )
    assert process.stderr is not None
    while "/10000" not in process.stderr.readline(200):
        assert process.poll() is None
    while not list(tmp_path.glob("**/*.jpg")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "Traceback" not in said and said.splitlines()[-1].startswith("stopped")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("program", ["trainer", "loadtest", "service"])
def test_a_reader_that_ends_early_is_no_error(program: str, unbuffered: str, repository: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has read enough
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", program, "--help"],
            cwd=repository,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_that_is_closed_from_the_start_is_no_error(repository: Path) -> None:
    command = f"exec {sys.executable} -m loadtest --version >&-"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=repository, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("command", "offline"), [("import", None), ("sft", "1")])
def test_only_import_may_download(command: str, offline: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")  # so that what `main` sets is taken back
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert (os.environ.get("HF_HUB_OFFLINE"), os.environ["DO_NOT_TRACK"]) == (offline, "1")


@pytest.mark.parametrize("program", [trainer_main, loadtest_main])
def test_a_missing_package_is_named_with_what_installs_it_also_for_a_gpu(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, (module, _) = next(iter(program.COMMANDS.items()))
    monkeypatch.setitem(sys.modules, module, None)
    assert program.main([command]) == 1
    said = capsys.readouterr().err
    assert module in said and "make install (with EXTRA=gpu on a machine with an NVIDIA GPU)" in said
