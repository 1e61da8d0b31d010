"""Temporary directories in the store of publishers that were stopped or killed, and their removal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.trainer.command_line import ROOT
from trainer.release.publish.incoming import PREFIX, UNLOCKED_SECONDS, incoming, remove_abandoned

pytestmark = pytest.mark.slow

HOLDS_A_PLACE = """
    import sys
    from pathlib import Path
    from trainer.release.publish.incoming import incoming
    with incoming(Path(sys.argv[1])) as place:
        (place / "checkpoint").mkdir()
        print(place, flush=True)
        sys.stdin.read()
"""
PUBLISHES_WITH_A_SLOW_ENGINE = """
    import subprocess, sys
    from contextlib import contextmanager
    from trainer.__main__ import main

    @contextmanager
    def prober(*_, **__):
        with subprocess.Popen(["sleep", "600"]) as engine:
            try:
                print(engine.pid, flush=True)
                engine.wait()
                yield
            finally:
                engine.kill()

    import screening.inference.inspection, trainer.release.publish.probing
    screening.inference.inspection.inspect = lambda *_: None  # takes a process and seconds, before the engine
    trainer.release.publish.probing.open_prober = prober
    store, checkpoint = sys.argv[1:]
    sys.exit(main(["publish", "--checkpoint", checkpoint, "--store", store, "--tracking-uri", "none"]))
"""


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_leftovers_of_a_killed_publisher_are_removed_and_those_of_a_running_one_stay(tmp_path: Path) -> None:
    with start(HOLDS_A_PLACE, tmp_path) as living, start(HOLDS_A_PLACE, tmp_path) as killed:
        theirs, left = Path(first_line(living)), Path(first_line(killed))
        killed.kill()
        killed.wait()
        assert (left / "checkpoint").is_dir()
        with incoming(tmp_path) as ours:
            assert set(tmp_path.iterdir()) == {theirs, ours}
        assert (theirs / "checkpoint").is_dir()
        living.communicate("")
    assert living.returncode == 0
    assert not list(tmp_path.iterdir())


def test_one_without_a_lock_is_left_alone_for_a_day(tmp_path: Path) -> None:
    """It may have just been created."""
    new, old = tmp_path / f"{PREFIX}new", tmp_path / f"{PREFIX}old"
    for directory in (new, old):
        (directory / "checkpoint").mkdir(parents=True)
    yesterday = time.time() - UNLOCKED_SECONDS - 1
    os.utime(old, (yesterday, yesterday))
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [new]


def test_a_terminated_publisher_leaves_neither_engine_nor_copy(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with start(PUBLISHES_WITH_A_SLOW_ENGINE, tmp_path, tiny_checkpoint) as publisher:
        engine = int(first_line(publisher))
        assert [path.name.startswith(PREFIX) for path in tmp_path.iterdir()] == [True]
        publisher.send_signal(signal.SIGTERM)
        assert publisher.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(engine, 0)
    assert not list(tmp_path.iterdir())
