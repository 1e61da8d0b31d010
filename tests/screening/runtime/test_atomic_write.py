"""Files and directories are replaced as a whole, or stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.runtime.atomic_write import partial_path, replacing_directory, write_atomically


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_replaced_and_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for name in ("old", "new"):
        partial_path(path).mkdir()
        (partial_path(path) / "half").touch()
        with replacing_directory(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_stays_as_it_was_when_its_replacement_fails(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(OSError, match="disk full"), replacing_directory(path) as temporary:
        temporary.mkdir()
        raise OSError("disk full")
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
