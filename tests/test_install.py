"""`.ci/install` sees whether an environment works, and leaves alone what it did not make. Nothing is installed here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the files that the script reads, and a `.venv` without a Python."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / ".ci", root / ".ci")
    for name in ("constraints.txt", "pyproject.toml", "clients/python/pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / ".venv" / "bin").mkdir(parents=True)
    return root


def run(checkout: Path, *arguments: str, trace: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *(["-x"] if trace else []), ".ci/install", *arguments],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "HOME": str(checkout), **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def write_python(checkout: Path, script: str) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def write_dead_python(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "python").symlink_to(checkout / "removed" / "bin" / "python3.11")


def write_wanted_pins(checkout: Path) -> None:
    (pins,) = re.findall(r"(?m)^\+ wanted=(\w{64})$", run(checkout, "--check", ".venv", trace=True).stderr)
    (checkout / ".venv" / ".pins").write_text(f"{pins}\n")


def contents(directory: Path) -> dict[str, str]:
    """Texts of the files, and targets of the links, by path."""
    return {
        str(path.relative_to(directory)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in directory.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_an_environment_with_the_wanted_pins_is_complete(checkout: Path) -> None:
    write_python(checkout, f'exec {shlex.quote(sys.executable)} "$@"')
    assert run(checkout, "--check", ".venv").returncode == 1
    write_wanted_pins(checkout)
    done = run(checkout, "--check", ".venv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_whose_python_was_removed_is_not_complete(checkout: Path) -> None:
    write_dead_python(checkout)
    write_wanted_pins(checkout)
    done = run(checkout, "--check", ".venv")
    assert (done.returncode, done.stderr) == (1, "")


def test_an_environment_of_the_script_is_made_again_if_its_python_was_removed(checkout: Path) -> None:
    write_dead_python(checkout)
    (checkout / ".venv" / ".extra").write_text("cpu\n")
    write_wanted_pins(checkout)
    done = run(checkout, PYTHON="false")  # ends it where it looks for a Python to begin with
    assert done.returncode == 1
    assert "starting again" in done.stderr and "Python 3.11 with its venv module was not found" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_missing_libnuma_is_named_before_anything_is_downloaded(checkout: Path) -> None:
    # Is a whole environment in all but libnuma, and has no pip that could download.
    write_python(checkout, 'case "$*" in -c*libnuma*) exit 1 ;; -c*) exit 0 ;; *) echo "ran $*" >&2; exit 1 ;; esac')
    (checkout / ".venv" / ".pins").write_text("others\n")
    done = run(checkout)
    assert done.returncode == 1
    assert "libnuma.so.1" in done.stderr and "apt-get install libnuma1" in done.stderr and "ran " not in done.stderr
    assert (checkout / ".venv" / ".pins").read_text() == "others\n"


@pytest.mark.parametrize("write", [write_dead_python, lambda checkout: write_python(checkout, "exit 1")])
def test_an_environment_of_another_program_is_refused_and_not_changed(checkout: Path, write) -> None:
    write(checkout)
    write_wanted_pins(checkout)
    before = contents(checkout / ".venv")
    assert set(before) == {"bin/python", ".pins"}
    done = run(checkout, PYTHON="false")
    assert done.returncode == 1
    assert ".venv is not an environment of Python 3.11 with pip, and it was not made by this command." in done.stderr
    assert "make install VENV=" in done.stderr
    assert contents(checkout / ".venv") == before
