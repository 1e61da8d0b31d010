"""An engine proves that it holds a checkpoint: it gives the log-probabilities that the checkpoint's probes recorded.

An engine that was built anew read every tensor from files that were verified, so nothing stale can be in it, and either
proof of `screening.probes` will do; the stricter one, by repetition, fails on other kinds of machines than the
recording one. Weights that were put in the place of others have to repeat the numbers, unless an engine built here has
shown that this machine cannot repeat that recorder's. Where they do not repeat and rounding might explain it, building
the engine anew will tell.
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
from service.domain_proof import prove_domain
from service.engine import Engine
from service.logs import log

LOGGER = logging.getLogger("service.hot_swap")  # what becomes of the served checkpoint is one story in the log


class NotRepeated(CheckpointError):
    """Weights in place that rounding might explain and that do not repeat what was recorded: a new engine will tell."""


@dataclass(frozen=True, slots=True)
class Proved:
    """A checkpoint that the engine holds, and has shown to hold."""

    load_ms: float = 0.0
    proof_ms: float = 0.0
    deviation: float = 0.0


class Prover:
    """Asks one service's engine, and remembers whose recordings its machine cannot repeat."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._foreign: set[str | None] = set()
        """Machines whose recorded numbers an engine that was built here did not repeat, though rounding explains it."""

    def repeats(self, probes: Probes) -> bool:
        """Whether numbers recorded by that machine are expected to be repeated here."""
        return probes.machine not in self._foreign

    async def load_and_prove(self, manifest: Manifest, loading: Awaitable[None], *, may_round: bool) -> Proved:
        """Wait until the engine is loaded, in place or anew, and have it prove what it holds.

        Args:
            may_round: see `prove`.

        Raises:
            CheckpointError: it does not prove it.
            Exception: whatever the engine raised while it loaded.
        """
        began = time.perf_counter()
        await loading
        load_ms, loaded = milliseconds_since(began), time.perf_counter()
        if manifest.probes is None:  # only what the service was started on; a swap to one is refused
            return Proved(load_ms)
        worst = await self.prove(manifest, may_round=may_round)
        return Proved(load_ms, milliseconds_since(loaded), worst)

    async def prove(self, manifest: Manifest, *, may_round: bool) -> float:
        """Have the engine prove its weights, and then that it scores pictures as the checkpoint's domain says.

        Args:
            may_round: see `_prove_weights`.

        Returns:
            The largest difference between a probe's log-probability and the one found.

        Raises:
            NotRepeated: see there.
            CheckpointError: the engine does not prove one of the two, or there are no probes.
        """
        worst = await self._prove_weights(manifest, may_round=may_round)
        await prove_domain(self._engine, manifest)
        return worst

    async def _prove_weights(self, manifest: Manifest, *, may_round: bool) -> float:
        """The largest difference between a probe's log-probability and the one found.

        Args:
            may_round: rounding is enough, because the engine loaded this checkpoint at its start.

        Raises:
            NotRepeated: see there.
            CheckpointError: it is more than this machine explains, or there are no probes.
        """
        if manifest.probes is None:
            raise CheckpointError("the checkpoint carries no probes")
        probes = manifest.probes
        # All at once: the engine reads them as one batch, and tolerances were found alone and in company.
        found = await asyncio.gather(*map(self._engine.log_probabilities, probes.questions))
        worst = probes.deviation(found)
        if probes.repeated(found):
            self._foreign.discard(probes.machine)
            return worst
        unproved = self._unproved(probes, worst)
        if not probes.rounded(found):
            raise CheckpointError(unproved)
        if self.repeats(probes) and not may_round:
            raise NotRepeated(unproved)
        self._foreign.add(probes.machine)
        details = {"from_float32": probes.from_exact(found), "recorded_rounding": probes.rounding, "deviation": worst}
        machines = {"recorded_by": probes.machine, "machine": self._engine.machine}
        log(LOGGER, logging.INFO, "proved by rounding", digest=manifest.digest, **details, **machines)
        return worst

    def _unproved(self, probes: Probes, worst: float) -> str:
        text = f"the engine does not give the checkpoint's log-probabilities: {worst:.3g} off"
        if probes.machine == self._engine.machine:
            return text
        return f"{text}; recorded by {probes.machine or 'an unknown machine'}, here {self._engine.machine}"
