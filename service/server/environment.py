"""Prepares the environment of the process for libraries that read it when they are imported."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

from screening.runtime.cpus import limit_threads
from screening.runtime.environment import name_the_user
from service.logs import log

LOGGER = logging.getLogger("service.server.environment")


def prepare(environment: MutableMapping[str, str]) -> None:
    """Respect a CPU quota, name the user, and keep metrics in memory. Call it before the rest is imported."""
    limit_threads(environment)
    name_the_user(environment)
    for variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        if environment.pop(variable, None) is not None:
            # It makes several processes share metrics by files, in a directory that must exist.
            text = f"{variable} is ignored: the service is one process and keeps its metrics in memory"
            log(LOGGER, logging.WARNING, text)
