"""Verification of the out-of-domain scores that an engine computes; see `screening.checkpoint.domain`.

A stale or broken score would let every picture pass, or flag every picture, and no answer would show that. The domain
of a checkpoint therefore has probes: pictures that every service can draw, with the scores that the publisher's engine
gave.
"""

from __future__ import annotations

import logging

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import probe_pictures
from service.engines.protocol import Engine
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.hot_swap")  # one logger for everything that changes the checkpoint


async def verify_domain(engine: Engine, manifest: Manifest) -> None:
    """Compare the engine's scores with the recorded ones. A checkpoint without a domain is served without a score.

    Raises:
        CheckpointError: see `screening.checkpoint.domain.Domain.verify`.
    """
    if (domain := manifest.domain) is None:
        log(LOGGER, logging.INFO, "checkpoint without a domain: no out-of-domain score", digest=manifest.digest)
        return
    size = manifest.image.size
    domain.verify([await engine.domain_scores(probe_pictures(probe.seed, size)) for probe in domain.probes])
