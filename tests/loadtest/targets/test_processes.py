"""Leaked processes and memory of a service are found; those still in use are not reported as leaked."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.targets.processes import alive, footprint, held_by, leaked, tree, wait_gone, wait_not_leaked

SPAWNS = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE);"
    "print(child.pid, flush=True); input()"
)


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child; the child ends when its input closes."""
    with subprocess.Popen([sys.executable, "-c", SPAWNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        yield popen
        popen.kill()


def test_a_tree_is_a_process_and_all_below_it(parent) -> None:
    assert len(tree(parent.pid)) == 2
    held = footprint(parent.pid)
    assert held.processes == 2 and held.memory_bytes > 2**20 and held.open_files >= 4 and held.threads >= 2


def test_processes_that_outlive_their_parent_are_named(parent) -> None:
    below = tree(parent.pid)[1:]
    assert wait_gone(below, 0) == below
    parent.kill()
    parent.wait()
    assert wait_gone(below, 60) == []
    assert alive(below) == [] and tree(parent.pid) == []


@pytest.fixture
def segment() -> Iterator[Path]:
    path = Path("/dev/shm") / f"loadtest-{uuid.uuid4().hex}"
    yield path
    path.unlink(missing_ok=True)


def test_shared_memory_that_nobody_holds_any_more_is_leaked(segment) -> None:
    with segment.open("wb"):
        held = held_by([os.getpid()])
        assert segment.name in held
        assert leaked({segment.name}) == []
    assert leaked({segment.name}) == wait_not_leaked({segment.name}, 0) == [segment.name]
    segment.unlink()
    assert leaked({segment.name}) == []


def test_shared_memory_that_others_leak_is_not_ours(segment) -> None:
    segment.touch()
    assert segment.name not in held_by([os.getpid()])
    assert leaked(set()) == []
