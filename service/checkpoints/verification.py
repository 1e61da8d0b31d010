"""Verification of the weights that an engine holds, by the probes of its checkpoint.

A probe is a question with the log-probabilities that the published weights give. The engine passes in one of two ways:

- *By repetition*: it gives the recorded numbers. On the kind of machine that recorded them this is the only way,
  because there every other number means other weights.
- *By rounding*, on another kind of machine: its numbers are as close to float32's as rounding explains. This is a
  weaker check, so only a freshly started engine may pass it, because that engine has read every tensor from verified
  files. The verifier keeps the engine's numbers, and from then on the checkpoint must repeat them: after a reload in
  place, after a roll-back and after an engine restart.
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
from service.checkpoints.domain_verification import verify_domain
from service.engines.protocol import Engine
from service.logs import log
from service.timings import milliseconds_since

LOGGER = logging.getLogger("service.checkpoints.hot_swap")  # one logger for everything that changes the checkpoint

_RECORD_HERE = (
    ". If the checkpoint's files are sound, this machine rounds differently from the one that recorded the probes: "
    "record them on a machine like this one, with `python -m trainer publish --again`"
)
"""Advice for an engine that read verified files and still fails the probes."""
MAX_REMEMBERED = 64
"""Maximum number of checkpoints whose numbers on this machine are kept."""


class MayBeRounding(CheckpointError):
    """Weights loaded in place do not give the recorded numbers, and rounding could explain that. Only an engine restart
    can tell."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What loading and verifying a checkpoint took and found; see `service.checkpoints.hot_swap.Swap`."""

    load_ms: float = 0.0
    proof_ms: float = 0.0
    deviation: float = 0.0


class Verifier:
    """Asks one engine the probes, and keeps the numbers that the engine gave where it passed by rounding."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._given: dict[str, list[list[float]]] = {}
        """Seal of a checkpoint that passed by rounding → the log-probabilities that this machine gave."""

    def passed_by_rounding(self, manifest: Manifest) -> bool:
        """Whether this checkpoint passed by rounding on this machine."""
        return seal_of(manifest) in self._given

    async def load_and_verify(self, manifest: Manifest, loading: Awaitable[None], *, allow_rounding: bool) -> Verified:
        """Wait until the engine has loaded a checkpoint, then verify what it holds.

        Args:
            allow_rounding: whether the engine is freshly started and may pass by rounding. Only a fresh engine may hold
                a checkpoint without probes: the one that the service was configured with.

        Raises:
            CheckpointError: the engine fails the probes.
            Exception: any error of the engine while it loaded.
        """
        began = time.perf_counter()
        await loading
        load_ms, loaded = milliseconds_since(began), time.perf_counter()
        if manifest.probes is None and allow_rounding:
            log(LOGGER, logging.WARNING, "checkpoint without probes is not verified", digest=manifest.digest)
            return Verified(load_ms)
        worst = await self.verify(manifest, allow_rounding=allow_rounding)
        return Verified(load_ms, milliseconds_since(loaded), worst)

    async def verify(self, manifest: Manifest, *, allow_rounding: bool) -> float:
        """Verify the engine's weights by the probes, and its out-of-domain scores by the probes of the domain.

        Args:
            allow_rounding: whether the engine is freshly started and may pass by rounding.

        Returns:
            The largest difference between a recorded log-probability and the one found.

        Raises:
            MayBeRounding: the engine is not freshly started, and rounding could explain the difference.
            CheckpointError: the engine fails, or the checkpoint has no probes.
        """
        worst = await self._verify_weights(manifest, allow_rounding=allow_rounding)
        await verify_domain(self._engine, manifest)
        return worst

    async def _verify_weights(self, manifest: Manifest, *, allow_rounding: bool) -> float:
        if manifest.probes is None:
            raise CheckpointError("the checkpoint has no probes")
        probes, seal = manifest.probes, seal_of(manifest)
        # All at once: the engine reads them as one batch. Tolerances were measured alone and in company.
        found = await asyncio.gather(*map(self._engine.log_probabilities, probes.questions))
        worst = probes.deviation(found)
        if probes.repeated(found):
            return worst
        difference = self._difference(probes, worst)
        if (given := self._given.get(seal)) is not None:
            if not probes.repeated(found, given):
                raise CheckpointError(f"{difference}. This machine gave other numbers for this checkpoint before, too")
            return worst
        if not self._recorded_elsewhere(probes) or not probes.rounded(found):
            raise CheckpointError(f"{difference}{_RECORD_HERE}" if allow_rounding else difference)
        if not allow_rounding:
            raise MayBeRounding(difference)
        self._keep(seal, found)
        details = {"from_float32": probes.from_exact(found), "recorded_rounding": probes.rounding, "deviation": worst}
        machines = {"recorded_by": probes.machine, "machine": self._engine.machine}
        log(LOGGER, logging.INFO, "verified by rounding", digest=manifest.digest, **details, **machines)
        return worst

    def _recorded_elsewhere(self, probes: Probes) -> bool:
        """Whether another kind of machine is known to have recorded the probes."""
        return probes.machine not in (None, self._engine.machine)

    def _keep(self, seal: str, found: list[list[float]]) -> None:
        self._given[seal] = found
        while len(self._given) > MAX_REMEMBERED:
            del self._given[next(iter(self._given))]

    def _difference(self, probes: Probes, worst: float) -> str:
        text = f"the engine does not give the checkpoint's log-probabilities: the largest difference is {worst:.3g}"
        if probes.machine == self._engine.machine:
            return text
        return f"{text}; recorded by {probes.machine or 'an unknown machine'}, here {self._engine.machine}"
