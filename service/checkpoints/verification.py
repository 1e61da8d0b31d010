"""An engine proves that it holds a checkpoint: it gives the log-probabilities that the checkpoint's probes recorded.

*By repetition*: it gives the recorded numbers. On the kind of machine that recorded them nothing else is a proof, for
there any other number means other weights.

*By rounding*, on another kind of machine: the numbers are as near to float32's as rounding explains. That is a weaker
proof, so only a freshly started engine may give it, because it has read every tensor from verified files. What it gave
is kept, and from then on this checkpoint has to repeat that, in place, after a roll-back and in the next engine alike.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import Probes
from screening.checkpoint.seal import seal_of
from screening.errors import CheckpointError
from service.checkpoints.domain_verification import prove_domain
from service.engines.protocol import Engine
from service.logs import log
from service.timings import milliseconds_since

LOGGER = logging.getLogger(
    "service.checkpoints.hot_swap"
)  # what becomes of the served checkpoint is one story in the log


_RECORD_HERE = (
    ". If its files are sound, this machine rounds otherwise than the recording one: record the probes on a machine "
    "like this one, with `python -m trainer publish --again`"
)
"""What to do where a new engine, which read verified files, does not prove them."""
REMEMBERED = 64
"""Checkpoints whose numbers on this machine are kept."""


class NotRepeated(CheckpointError):
    """Weights in place that rounding might explain and that do not repeat what was recorded: a new engine will tell."""


@dataclass(frozen=True, slots=True)
class Proved:
    """A checkpoint that the engine holds, and has shown to hold."""

    load_ms: float = 0.0
    proof_ms: float = 0.0
    deviation: float = 0.0


class Prover:
    """Asks one service's engine, and remembers what it gave where another kind of machine recorded the probes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._given: dict[str, list[list[float]]] = {}
        """Seal of a checkpoint that was proved by rounding → what this machine gave."""

    def rounded(self, manifest: Manifest) -> bool:
        """Whether this checkpoint was proved here, by rounding."""
        return seal_of(manifest) in self._given

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
        probes, seal = manifest.probes, seal_of(manifest)
        # All at once: the engine reads them as one batch, and tolerances were found alone and in company.
        found = await asyncio.gather(*map(self._engine.log_probabilities, probes.questions))
        worst = probes.deviation(found)
        if probes.repeated(found):
            return worst
        unproved = self._unproved(probes, worst)
        if (given := self._given.get(seal)) is not None:
            if not probes.repeated(found, given):
                raise CheckpointError(f"{unproved}; what this machine gave for it before is not repeated either")
            return worst
        if not self._may_round(probes) or not probes.rounded(found):
            raise CheckpointError(f"{unproved}{_RECORD_HERE}" if may_round else unproved)
        if not may_round:
            raise NotRepeated(unproved)
        self._keep(seal, found)
        details = {"from_float32": probes.from_exact(found), "recorded_rounding": probes.rounding, "deviation": worst}
        machines = {"recorded_by": probes.machine, "machine": self._engine.machine}
        log(LOGGER, logging.INFO, "proved by rounding", digest=manifest.digest, **details, **machines)
        return worst

    def _may_round(self, probes: Probes) -> bool:
        """Whether another kind of machine recorded them; not where that is unknown."""
        return probes.machine not in (None, self._engine.machine)

    def _keep(self, seal: str, found: list[list[float]]) -> None:
        self._given[seal] = found
        while len(self._given) > REMEMBERED:
            del self._given[next(iter(self._given))]

    def _unproved(self, probes: Probes, worst: float) -> str:
        text = f"the engine does not give the checkpoint's log-probabilities: {worst:.3g} off"
        if probes.machine == self._engine.machine:
            return text
        return f"{text}; recorded by {probes.machine or 'an unknown machine'}, here {self._engine.machine}"
