"""A full disk is distinguished from other errors, in whatever form a library reports it."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from screening.runtime.exits import disk_full

FULL = Path("/dev/full")
"""A device on which every write fails because it is full."""


def plain(_: Path) -> None:
    with FULL.open("w") as handle:
        handle.write("x" * 100_000)


def named(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "named"))


def quota(folder: Path) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded", str(folder / "named"))


def wrapped(_: Path) -> None:
    try:
        plain(_)
    except OSError as error:
        raise ValueError("cannot be stored") from error


def tensors(_: Path) -> None:
    # In its words only: given the device itself, safetensors would put a file in its place.
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def state(_: Path) -> None:
    with FULL.open("wb") as handle:
        torch.save({"x": torch.zeros(100_000)}, handle)


def database(_: Path) -> None:
    raise sqlite3.OperationalError("database or disk is full")


PRINTING = """
import os, sys
from screening.runtime.exits import run_while_output_is_read

def run():
    with open(sys.argv[1], "w") as file:
        print("of Python", file=sys.stderr)
        os.write(1, b"of a library")
        os.write(2, b"of a library")
        os.system("echo of a child; echo of a child >&2")
        file.write("its own")
    return 3

sys.exit(run_while_output_is_read(run))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_printed_to_a_closed_stream_reaches_no_file_of_the_program(closed: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PRINTING)
    command = f"exec {sys.executable} program.py file {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "file").read_text() == "its own"


@pytest.mark.parametrize("write", [plain, wrapped, tensors, state, database])
def test_the_error_for_a_full_disk_names_the_directory(write, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        write(tmp_path)
    said = disk_full(caught.value, tmp_path / "out")
    assert said is not None and "No space left on device" in said and "\n" not in said
    assert str(tmp_path / "out") in said or "/dev/full" in said


@pytest.mark.parametrize("write", [named, quota])
def test_the_path_of_the_error_itself_is_the_better_one(write, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        write(tmp_path)
    assert str(disk_full(caught.value, tmp_path / "out")).startswith(f"{tmp_path / 'named'} cannot be written")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EFBIG, "File too large"), SafetensorError("Error while serializing: File too large (os error 27)")],
)
def test_a_limit_on_the_size_of_files_is_named(error: Exception) -> None:
    said = disk_full(error, Path("out"))
    assert said is not None and said.startswith("out cannot be written: File too large; raise the limit")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_number_alone_suffices(number: int) -> None:
    assert "free some space" in str(disk_full(SafetensorError(f"I/O error (os error {number})"), Path("out")))


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), ValueError("space left on the device"), KeyError(28)])
def test_other_errors_are_not_a_full_disk(error: Exception) -> None:
    assert disk_full(error, None) is None
