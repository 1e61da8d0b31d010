"""A full disk is told from other errors, however a library says it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from screening.endings import disk_full

FULL = Path("/dev/full")
"""A device on which every write fails for want of room."""


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


@pytest.mark.parametrize("write", [plain, wrapped, tensors, state, database])
def test_a_full_disk_is_said_with_the_directory_that_was_written_to(write, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), ValueError("space left on the device"), KeyError(28)])
def test_other_errors_are_not_a_full_disk(error: Exception) -> None:
    assert disk_full(error, None) is None
