"""Processes forked from one that has imported the trainer, because these imports are most of a small run's time."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.ports import free_port

IMPORTED = (
    "mlflow",
    "trainer.training.sft.train",
    "trainer.training.hcm_grpo.train",
    "trainer.release.retrain.machine",
    "tests.trainer.release.retrain.shop",
)
"""One list for all tests: a test process has a single fork server."""


def start(work: Callable[..., None], *given: Any, environment: Mapping[str, str] = MappingProxyType({})) -> BaseProcess:
    """Start a process that calls a function of a module with these arguments, which are pickled.

    Args:
        environment: additional environment variables.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    process = context.Process(target=_run, args=(dict(environment), work, *given))
    process.start()
    return process


def end(process: BaseProcess) -> int:
    """Wait for the end of a process, and kill it after 20 minutes. Returns its exit code."""
    process.join(1200)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("not ended after 20 minutes")
    return process.exitcode


def run(work: Callable[..., None], *given: Any) -> int:
    """Start a process and wait for its end. Returns its exit code."""
    return end(start(work, *given))


def ranks(count: int) -> list[dict[str, str]]:
    """The environment that torchrun gives to each process of a training on this machine."""
    port = str(free_port())
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


@contextlib.contextmanager
def printing_to(file: Path) -> Iterator[None]:
    """Write what this process prints, logs included, to a file."""
    with file.open("w", encoding="utf-8") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
        yield
        sys.stdout.flush()


def _run(environment: dict[str, str], work: Callable[..., None], *given: Any) -> None:
    gc.freeze()  # what was imported stays
    gc.set_threshold(20_000, 10, 10)  # as in `tests/conftest.py`
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as in a separate process, for the data loader's workers
    work(*given)
