"""Screens the blocks on Ray Data: `map_batches` with a pool of actors, each with its own engine.

Only the descriptions of blocks travel through Ray. A worker reads its rows from the input and writes its part itself,
so pictures cross the network once. When a worker's process dies, Ray starts another one and repeats its blocks; a
repeated block replaces its part. That gives each record one answer, although Ray runs a task at least once.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from screening.errors import UserError
from screening.inference.generation import cpu_environment
from screening.runtime.commands import INSTALL
from screening.runtime.process_reaper import guard
from trainer.catalogue.job import Job
from trainer.catalogue.plan import Block
from trainer.catalogue.rejects import CatalogueError
from trainer.catalogue.worker import BLOCKS_AT_ONCE, Screened, Worker

_STORE_BYTES = 128 * 2**20
"""Size of the object store of a local Ray. Ray takes 30 % of the memory by default, and only descriptions pass here."""


class BlockWorker:
    """The class that Ray Data creates in each actor."""

    def __init__(self, job: Job) -> None:
        import ray

        if not ray.get_gpu_ids():
            # Ray sets OMP_NUM_THREADS to the CPUs that it reserves for the actor, which is 1.
            os.environ.update(cpu_environment())
        self._worker: Worker | None = None
        self._failure = ""
        try:
            self._worker = Worker(job)
        except (UserError, OSError) as error:  # reported by `__call__`, because Ray would print a page for it
            self._failure = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Screen the blocks of a batch of descriptions. Several threads of the actor call this at the same time."""
        blocks = [pickle.loads(description) for description in batch["block"]]  # noqa: S301 - pickled by `screen_on_ray`
        return {"outcome": [json.dumps(self._outcome(block)) for block in blocks]}

    def _outcome(self, block: Block) -> dict[str, Any]:
        """The values of `Screened`, or a `failure` that ends the run."""
        if self._worker is None:
            return {"failure": self._failure}
        try:
            return asdict(self._worker.screen(block))
        except (UserError, OSError) as error:
            return {"failure": str(error)}


def screen_on_ray(job: Job, blocks: Sequence[Block], *, address: str | None, workers: int | None) -> Iterator[Screened]:
    """Screen blocks on a Ray cluster, and yield what became of each.

    Args:
        address: that of a running cluster; None for RAY_ADDRESS, or else a cluster of this machine alone.
        workers: number of workers; None for one per GPU of the cluster, or one if it has none.

    Raises:
        CatalogueError: Ray is not installed or the cluster cannot be reached.
        UserError, OSError: as `Worker`; finished blocks are kept.
    """
    with _cluster(address) as gpus:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"block": pickle.dumps(block)} for block in blocks]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            BlockWorker,
            fn_constructor_args=(job,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                size=min(workers or max(1, gpus), len(blocks)),
                max_tasks_in_flight_per_actor=BLOCKS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            max_concurrency=BLOCKS_AT_ONCE,
            scheduling_strategy="SPREAD",
        )
        for row in done.iter_rows():
            outcome = json.loads(row["outcome"])
            if "failure" in outcome:
                raise CatalogueError(f"a worker cannot go on: {outcome['failure']}")
            yield Screened(**outcome)


def is_installed() -> bool:
    """Whether Ray Data can be imported."""
    from importlib.util import find_spec

    return find_spec("ray") is not None


@contextmanager
def _cluster(address: str | None) -> Iterator[int]:
    """Connect to a cluster, or start one on this machine for the time of the block. Yields its number of GPUs."""
    # Ray reads these when it is imported.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # an error log about every restartable actor with arguments
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: on a busy machine the engines would wait
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning about actors without GPUs
    try:
        import ray
    except ModuleNotFoundError as error:
        raise CatalogueError(f"Ray is not installed. Use --workers local, or install it with: {INSTALL}") from error
    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    # Without a guard, the workers of a killed command would hold their GPUs for more than a minute.
    with nullcontext() if address else guard():
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
        except (ConnectionError, ValueError) as error:
            raise CatalogueError(f"--ray-address {address}: {error}. Is Ray running there?") from error
        signal.signal(signal.SIGTERM, handler)  # Ray's own handler exits with another status.
        try:
            yield int(ray.cluster_resources().get("GPU", 0))
        finally:
            ray.shutdown()
