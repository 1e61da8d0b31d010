"""An engine proves that it holds a checkpoint: it gives the log-probabilities that the checkpoint's probes recorded.

An engine that was built anew read every tensor from files that were verified, so nothing stale can be in it, and either
proof of `screening.probes` will do; the stricter one, by repetition, fails on other kinds of machines than the
recording one. Weights that were put in the place of others have to repeat the numbers, wherever this machine can: that
is known from the engines that it built, and before it built one it is assumed of recordings made on its own kind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from screening.checkpoint import Manifest
from screening.errors import CheckpointError
from screening.probes import Probes
from service.clock import milliseconds_since
from service.engine import Engine
from service.logs import log

LOGGER = logging.getLogger("service.hot_swap")  # what becomes of the served checkpoint is one story in the log


@dataclass(frozen=True, slots=True)
class Proved:
    """A checkpoint that the engine holds, and has shown to hold."""

    load_ms: float = 0.0
    proof_ms: float = 0.0
    deviation: float = 0.0


class Prover:
    """Asks one service's engine, and remembers whose recordings its machine can repeat."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._repeats: dict[str | None, bool] = {}
        """Machines that recorded, and whether an engine built here repeated their numbers."""

    async def load_and_prove(self, manifest: Manifest, loading: Awaitable[None], *, built_anew: bool) -> Proved:
        """Wait until the engine is loaded, in place or anew, and have it prove what it holds.

        Raises:
            CheckpointError: it does not prove it.
            Exception: whatever the engine raised while it loaded.
        """
        began = time.perf_counter()
        await loading
        load_ms, loaded = milliseconds_since(began), time.perf_counter()
        if manifest.probes is None:  # only what the service was started on; a swap to one is refused
            return Proved(load_ms)
        worst = await self.prove(manifest, built_anew=built_anew)
        return Proved(load_ms, milliseconds_since(loaded), worst)

    async def prove(self, manifest: Manifest, *, built_anew: bool) -> float:
        """The largest difference between a probe's log-probability and the one found.

        Args:
            built_anew: the engine loaded this checkpoint at its start.

        Raises:
            CheckpointError: it is more than this machine explains, or there are no probes.
        """
        if manifest.probes is None:
            raise CheckpointError("the checkpoint carries no probes")
        probes = manifest.probes
        # All at once: the engine reads them as one batch, and tolerances were found alone and in company.
        found = await asyncio.gather(*map(self._engine.log_probabilities, probes.questions))
        worst, repeated = probes.deviation(found), probes.repeated(found)
        rounded = (built_anew or not self._must_repeat(probes)) and probes.rounded(found)
        if not (repeated or rounded):
            raise CheckpointError(self._unproved(probes, worst))
        if built_anew:
            self._repeats[probes.machine] = repeated
        if not repeated:
            details = {"recorded": probes.machine, "here": self._engine.machine, "deviation": worst}
            log(LOGGER, logging.INFO, "proved by rounding", digest=manifest.digest, **details)
        return worst

    def _must_repeat(self, probes: Probes) -> bool:
        return self._repeats.get(probes.machine, probes.machine in (None, self._engine.machine))

    def _unproved(self, probes: Probes, worst: float) -> str:
        text = f"the engine does not give the checkpoint's log-probabilities: {worst:.3g} off"
        if probes.machine == self._engine.machine:
            return text
        recorded = f"on {probes.machine}" if probes.machine else "elsewhere, before probes held float32's"
        return f"{text}; they were recorded {recorded}, this is {self._engine.machine}"
