"""The registry watcher: the service loads the checkpoint that an alias of the registry names.

If the registry does not answer, the service keeps its checkpoint. A refused checkpoint is not tried again (also after a
restart) until its directory holds something else, or the service runs on another kind of machine. After another failure
(a store that is not mounted, an incomplete copy, a full disk, a busy service) the watcher tries again, less and less
often: each attempt reads a whole checkpoint.

A checkpoint that needs an engine restart waits for a random time, because a service answers no request while its engine
restarts, and all services of a fleet see the alias move at the same moment.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict

from screening.checkpoint.registry import Registry, Version
from screening.checkpoint.seal import verdict_key
from screening.checkpoint.weights import changed_for_engine
from screening.errors import CheckpointError, RegistryError
from screening.runtime.daemon_thread import in_daemon_thread
from service.checkpoints.hot_swap import HotSwap
from service.errors import CheckpointRefused, SwapBusy
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.registry_watcher")

_LONGEST_WAIT = 16
"""Maximum number of polls between two attempts at the same checkpoint."""
_JITTER = 0.25
"""Random share of the time between polls, so that services started together do not poll, and swap, together."""

Outcome = Literal[
    "not_asked", "current", "loaded", "waiting", "refused", "unavailable", "busy", "missing", "unreachable", "failed"
]
_NORMAL = ("current", "loaded", "waiting", "busy")
"""Outcomes that are logged as information and not as a warning."""


class RegistryState(BaseModel):
    """What the registry watcher knows."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    address: str
    """Model and address of the registry, without a password."""
    alias: str
    """Alias that the service follows."""
    version: int | None = None
    """Version that the alias named last."""
    digest: str | None = None
    """Digest of that version: SHA-256 over everything that decides the checkpoint's answers; probes and descriptive
    fields are left out."""
    outcome: Outcome = "not_asked"
    """`current`: it is served; `loaded`: the last poll loaded it; `waiting`: it needs an engine restart, which is
    postponed; `refused`, `unavailable`, `busy`: it is not served, see `reason`; `missing`: the registry has no such
    alias; `unreachable`: the registry does not answer; `failed`: a fault of the service."""
    reason: str | None = None
    """Why the version is not served; null if it is served."""
    asked: float | None = None
    """Unix time of the registry's last answer."""


@dataclass(slots=True)
class _Offer:
    """The checkpoint that the alias names and that is not served yet."""

    digest: str
    restart_from: float
    """Time from which an engine restart for it may begin, on the watcher's clock."""
    outcome: Outcome = "waiting"
    """What the last attempt came to."""
    reason: str | None = None
    wait: float = 0.0
    """Seconds from the last attempt to the next."""
    next_attempt: float = 0.0
    """Time of the next attempt on the watcher's clock."""


class RegistryWatcher:
    """Polls the registry from `start` to `stop`. The settings must name one."""

    def __init__(self, hot_swap: HotSwap) -> None:
        self.clock: Callable[[], float] = time.monotonic
        """Gives the time in seconds."""
        self._hot_swap = hot_swap
        self._served = served = hot_swap.served
        self._metrics = served.metrics
        self._settings = settings = served.settings
        self._registry = Registry(settings.registry or "", settings.registry_model)
        self.state = RegistryState(address=str(self._registry), alias=settings.registry_alias)
        self._question: asyncio.Future[Version | None] | None = None
        """The last question to the registry; pending until it answers."""
        self._offer: _Offer | None = None
        self._loop: asyncio.Task[None] | None = None
        self._metrics.registry_behind.set_function(self._is_behind)

    def start(self) -> None:
        """Begin to poll."""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop polling. A swap that has begun continues."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop

    async def production(self) -> Version | None:
        """The version that the alias names, with its directory on this machine; None if the registry does not say."""
        try:
            version = await self._ask()
            return await self._found(version) if version else None
        except (RegistryError, CheckpointRefused) as error:
            self._note("unreachable" if isinstance(error, RegistryError) else "refused", str(error))
            return None

    async def poll(self) -> None:
        """Ask the registry once, and do what its answer requires."""
        try:
            if (version := await self._ask()) is None:
                self._note("missing", f"the registry has no alias '{self.state.alias}'")
            else:
                self._note(*await self._follow(version))
        except RegistryError as error:
            self._note("unreachable", str(error))
        except CheckpointRefused as error:
            self._note("refused", str(error))
        except Exception as error:  # The next poll may succeed.
            LOGGER.exception("registry poll failed", extra={"fields": {"error": str(error)}})
            self._note("failed", f"{type(error).__name__}: {error}")

    async def _run(self) -> None:
        while True:
            await self.poll()
            jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - not a secret
            await asyncio.sleep(self._settings.registry_poll_seconds * jitter)

    async def _ask(self) -> Version | None:
        """The version that the alias names.

        Raises:
            RegistryError: the registry did not answer in time, or gave a bad answer.
        """
        seconds = self._settings.registry_timeout_seconds
        if self._question is None or self._question.done():  # Threads must not pile up while the registry hangs.
            self._question = in_daemon_thread(partial(self._registry.resolve, self.state.alias), name="registry")
            self._question.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
            await asyncio.wait({self._question}, timeout=seconds)
        if not self._question.done():  # An answer that comes later is not used, because the alias may move meanwhile.
            raise RegistryError(f"registry {self._registry}: no answer within {seconds:g} s")
        version = self._question.result()
        self._metrics.registry_reachable.set(1)
        self.state.asked = time.time()
        self.state.version, self.state.digest = (version.number, version.digest) if version else (None, None)
        return version

    async def _found(self, version: Version) -> Version:
        """Find the version's directory on this machine. This accesses the store, which may hang.

        Raises:
            CheckpointRefused: the directory lies outside the checkpoint store.
        """
        if (store := self._settings.checkpoint_store) is None:
            return version
        return replace(version, directory=await self._served.reads.resolve(store, version.name))

    async def _follow(self, version: Version) -> tuple[Outcome, str | None]:
        """Serve a version, if that is necessary and possible now."""
        if version.digest == self._served.manifest.digest:
            self._offer = None
            return "current", None
        if not self._served.admission.is_open:
            return "busy", self._served.admission.closed_because
        if self._offer is None or self._offer.digest != version.digest:
            spread = random.uniform(0, self._settings.restart_spread_seconds)  # noqa: S311 - not a secret
            self._offer = _Offer(version.digest, restart_from=self.clock() + spread)
        offer, poll = self._offer, self._settings.registry_poll_seconds
        if self.clock() >= offer.next_attempt:
            offer.outcome, offer.reason = await self._take_up(await self._found(version), offer.restart_from)
            if offer.outcome in ("busy", "unavailable"):
                # The next attempt is at the next poll, then two polls later, then four, and so on.
                offer.wait = min(max(2 * offer.wait, poll / 2), _LONGEST_WAIT * poll)
                offer.next_attempt = self.clock() + offer.wait
        return offer.outcome, offer.reason

    async def _take_up(self, version: Version, restart_from: float) -> tuple[Outcome, str | None]:
        """Load the checkpoint that the registry names, unless it was refused or must wait for an engine restart."""
        history = self._served.history
        try:
            offered = await self._served.read_published(version.directory, version.digest)
            if (reason := history.refused.get(verdict_key(offered))) is not None:
                return "refused", reason
            wait = restart_from - self.clock()
            if wait > 0 and changed_for_engine(self._served.manifest, offered):
                return "waiting", f"The engine restarts for it in {wait:.0f} s: a fleet must not restart all at once."
            await self._hot_swap.swap_to(version.directory, digest=version.digest)
        except SwapBusy as error:
            return "busy", str(error)
        except CheckpointRefused as error:
            return "refused" if verdict_key(offered) in history.refused else "unavailable", str(error)
        except CheckpointError as error:
            return "unavailable", str(error)
        return "loaded", None

    def _note(self, outcome: Outcome, reason: str | None) -> None:
        """Put the outcome of a poll into the metrics, and into the log if it differs from the last one."""
        self._metrics.registry_polls.labels(outcome).inc()
        self._metrics.registry_reachable.set(outcome != "unreachable")
        if outcome != self.state.outcome:
            level = logging.INFO if outcome in _NORMAL else logging.WARNING
            fields = {"registry": self.state.address, "alias": self.state.alias, "version": self.state.version}
            log(LOGGER, level, "registry", outcome=outcome, reason=reason, **fields)
        self.state.outcome, self.state.reason = outcome, reason

    def _is_behind(self) -> bool:
        """Whether the alias named another checkpoint, when it was asked last, than the one that is served."""
        serving = self._served.copy.manifest.digest if self._served.copy else None
        return self.state.digest not in (None, serving)
