"""Verification of the weights that an engine holds, by the probes of its checkpoint.

A probe is a question with the log-probabilities that the published weights give. The engine passes in one of two ways:

- *By repetition*: it gives the recorded numbers. This is the only way on the kind of machine that recorded them, where
  every other number means other weights, and for an engine that computes in float32 as the probes' exact numbers did.
- *By rounding*, on another kind of machine: its numbers are as close to float32's as rounding explains. Only a freshly
  started engine may pass this weaker check, because it has read every tensor from verified files. The verifier keeps
  its numbers, and from then on the checkpoint must repeat those, after a reload as after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import NamedTuple

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import Probes, probe_pictures
from screening.checkpoint.seal import seal_of
from screening.errors import CheckpointError
from service.engines.protocol import Engine
from service.logs import log
from service.timings import milliseconds_since

LOGGER = logging.getLogger(__name__)

_DIFFERS = "the engine does not give the checkpoint's log-probabilities: the largest difference is"
_RECORD_HERE = (
    ". If the checkpoint's files are sound, this machine rounds differently from the one that recorded the probes: "
    "record them on a machine like this one, with `python -m trainer publish --again`"
)
"""Advice for an engine that read verified files and still fails the probes."""


class MayBeRounding(CheckpointError):
    """Weights loaded in place do not give the recorded numbers, and rounding could explain that. Only an engine restart
    can tell."""


class Verified(NamedTuple):
    """What loading and verifying a checkpoint took and found; see `service.checkpoints.hot_swap.Swap`."""

    load_ms: float
    verify_ms: float = 0.0
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
        """Wait until the engine has loaded a checkpoint, and then `verify` it.

        A fresh engine may also hold a checkpoint without probes: the one that the service was configured with.

        Raises:
            CheckpointError: see `verify`.
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
            MayBeRounding: the engine may not pass by rounding, and rounding could explain the difference.
            CheckpointError: the engine fails, or the checkpoint has no probes.
        """
        if (probes := manifest.probes) is None:
            raise CheckpointError("the checkpoint has no probes")
        # All at once: the engine reads them as one batch. Tolerances were measured alone and in company.
        found = await asyncio.gather(*map(self._engine.log_probabilities, probes.questions))
        exact = probes.exact if self._engine.in_float32 else None
        worst = probes.deviation(found, exact)
        difference = f"{_DIFFERS} {worst:.3g}"
        if probes.machine != self._engine.machine:
            difference += f"; recorded by {probes.machine or 'an unknown machine'}, here {self._engine.machine}"
        if exact:
            if not probes.repeated_in_float32(found):
                raise CheckpointError(f"{difference}. If its files are sound, set SCREENING_CPU_DTYPE=bfloat16")
        elif not probes.repeated(found):
            self._require_rounding(manifest, probes, found, difference, allow_rounding=allow_rounding)
        await verify_domain(self._engine, manifest)
        return worst

    def _require_rounding(
        self, manifest: Manifest, probes: Probes, found: list[list[float]], difference: str, *, allow_rounding: bool
    ) -> None:
        """Raise the error of `verify` unless rounding explains that the engine did not repeat the recorded numbers."""
        seal, here = seal_of(manifest), self._engine.machine
        if (given := self._given.get(seal)) is not None:
            if not probes.repeated(found, given):
                raise CheckpointError(f"{difference}. This machine gave other numbers for this checkpoint before, too")
            return
        if probes.machine in (None, here) or not probes.rounded(found):
            raise CheckpointError(difference + _RECORD_HERE if allow_rounding else difference)
        if not allow_rounding:
            raise MayBeRounding(difference)
        self._given[seal] = found
        numbers = {"from_float32": probes.from_exact(found), "recorded_rounding": probes.rounding}
        numbers["deviation"] = probes.deviation(found)
        machines = {"recorded_by": probes.machine, "machine": here}
        log(LOGGER, logging.INFO, "verified by rounding", digest=manifest.digest, **numbers, **machines)


async def verify_domain(engine: Engine, manifest: Manifest) -> None:
    """Compare the engine's out-of-domain scores with the recorded ones, because no answer shows that a score is broken.

    Raises:
        CheckpointError: see `screening.checkpoint.domain.Domain.verify`.
    """
    if (domain := manifest.domain) is None:
        log(LOGGER, logging.INFO, "checkpoint without a domain: no out-of-domain score", digest=manifest.digest)
        return
    size = manifest.image.size
    domain.verify([await engine.domain_scores(probe_pictures(each.seed, size)) for each in domain.probes])
