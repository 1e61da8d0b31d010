"""Verification of the out-of-domain scores that an engine computes; see `screening.checkpoint.domain`.

A stale or broken score would let every picture pass, or flag every picture, and no answer would show that. The domain
of a checkpoint therefore has probes: pictures that every service can draw, with the scores that the publisher's engine
gave.
"""

from __future__ import annotations

import logging

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import probe_pictures
from screening.errors import CheckpointError
from service.engines.protocol import Engine
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.hot_swap")  # one logger for everything that changes the checkpoint


async def verify_domain(engine: Engine, manifest: Manifest) -> None:
    """Compare the engine's scores with the recorded ones. A checkpoint without a domain is served without a score.

    Raises:
        CheckpointError: the scores differ by more than the recorded tolerance, or either side has none.
    """
    if (domain := manifest.domain) is None:
        log(LOGGER, logging.INFO, "checkpoint without a domain: no out-of-domain score", digest=manifest.digest)
        return
    if not domain.probes:
        raise CheckpointError("the checkpoint's domain has no probes. Run `python -m trainer domain` again")
    for probe in domain.probes:
        found = await engine.domain_scores(probe_pictures(probe.seed, manifest.image.size))
        off = domain.deviation(probe, found or ())
        if off > domain.tolerance:
            raise CheckpointError(
                f"the engine does not give the domain's scores: the largest relative difference is {off:.3g}, "
                f"and the tolerance is {domain.tolerance:.3g}"
            )
