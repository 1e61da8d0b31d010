"""The service follows the registry: what an alias names is taken up within a poll or two.

The registry is asked in a thread of its own, for a bounded time; when it does not answer, what is served is served on.
What was refused is not tried again (`SwapMemory.refused`, also over a restart) until its directory holds something
else. What could not be taken in (a store that is not mounted, a copy that is not whole, a full disk) and what came at a
bad moment is, less and less often: each attempt reads a whole checkpoint and may hold up requests.

A checkpoint that needs a new engine is put off by a random time: while an engine is built its service answers nobody,
and the others of its fleet have seen the alias move as well.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.registry import Registry, Version
from screening.checkpoint.seal import judged_as
from screening.errors import CheckpointError, CheckpointUnavailable, RegistryError
from screening.runtime.daemon_thread import in_daemon_thread
from service.admission.admission import Admission
from service.checkpoints.hot_swap import HotSwap, Swap
from service.checkpoints.local_store import inside
from service.checkpoints.served import Offer
from service.config.settings import Settings
from service.errors import CheckpointRefused, SwapBusy
from service.logs import log
from service.metrics import Metrics

LOGGER = logging.getLogger("service.checkpoints.registry_watcher")

_LONGEST_WAIT = 16
"""Polls between two attempts at the same checkpoint."""
_GRACE = 0.5
"""Seconds that the loop may take to notice an answer."""
_JITTER = 0.25
"""So that a fleet that was started together does not ask, and swap, at the same moment."""

Outcome = Literal[
    "not_asked", "current", "taken_up", "waiting", "refused", "unavailable", "busy", "missing", "unreachable", "failed"
]
_FINE = ("current", "taken_up", "waiting", "busy")


class Following(BaseModel):
    """What the follower knows."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    registry: str
    """Model and address, without a password."""
    alias: str
    """Alias that is followed."""
    version: int | None = None
    """Version that the alias named last."""
    digest: str | None = None
    """SHA-256 of that version's manifest."""
    outcome: Outcome = "not_asked"
    """`current`: it is served; `taken_up`: by the last poll; `waiting`: until its turn to build an engine comes;
    `refused`, `unavailable`, `busy`: it is not served, see `reason`; `missing`: there is no such alias; `unreachable`:
    the registry does not answer; `failed`: a fault of ours."""
    reason: str | None = None
    """Why the version is not served; null where it is."""
    asked: float | None = None
    """Unix time of the last answer."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """A question to the registry."""

    answer: asyncio.Future[Version | None]
    since: float
    """On the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _Later:
    """A checkpoint that was not taken up now, and is tried again."""

    digest: str
    outcome: Outcome
    reason: str
    wait: float
    """Seconds from the last attempt on; 0 where there was none yet."""
    until: float
    """On the follower's clock."""


class Follower:
    """Asks again and again, from `start` to `stop`."""

    def __init__(self, hot_swap: HotSwap, admission: Admission, metrics: Metrics, settings: Settings) -> None:
        """The settings name a registry."""
        self._clock = time.monotonic
        """By which a checkpoint is tried again."""
        self._hot_swap = hot_swap
        self._served = hot_swap.served
        self._admission = admission
        self._metrics = metrics
        self._settings = settings
        self._registry = Registry(settings.registry or "", settings.registry_model)
        self.state = Following(registry=str(self._registry), alias=settings.registry_alias)
        self._asking: _Asking | None = None
        self._later: _Later | None = None
        self._loop: asyncio.Task[None] | None = None
        self._swap: asyncio.Task[Swap] | None = None

    def start(self) -> None:
        """Follow from now on."""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ask no more. A swap that is under way goes on: nobody may be let in halfway."""
        if self._asking is not None:
            self._asking.answer.cancel()
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop

    async def offer(self) -> Offer | None:
        """What the alias names now; None where the registry does not say."""
        try:
            version = await self._ask()
            return await self._offer_of(version) if version else None
        except (RegistryError, CheckpointRefused) as error:
            self._note("unreachable" if isinstance(error, RegistryError) else "refused", str(error))
            return None

    async def _run(self) -> None:
        while True:
            await self._poll()
            jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - nobody gains by guessing it
            await asyncio.sleep(self._settings.registry_poll_seconds * jitter)

    async def _poll(self) -> None:
        """Ask once and do what the answer asks for."""
        try:
            version = await self._ask()
            self._compare()  # now: what follows may wait for a store that hangs
            if version is None:
                self._note("missing", f"the alias {self.state.alias} names nothing")
            else:
                self._note(*await self._follow(version))
        except RegistryError as error:
            self._note("unreachable", str(error))
        except CheckpointRefused as error:
            self._note("refused", str(error))
        except Exception as error:  # the next poll may find it mended
            LOGGER.exception("following failed", extra={"fields": {"error": str(error)}})
            self._note("failed", f"{type(error).__name__}: {error}")

    async def _ask(self) -> Version | None:
        """What the alias names.

        Raises:
            RegistryError: no answer in time, or a bad one. A later one is thrown away: the alias may have moved.
        """
        seconds = self._settings.registry_timeout_seconds
        until = time.monotonic() + seconds
        while True:
            if self._asking is None:
                resolve = partial(self._registry.resolve, self.state.alias)
                answer = in_daemon_thread(resolve, name="registry")
                self._asking = _Asking(answer, time.monotonic())
            done, _ = await asyncio.wait({self._asking.answer}, timeout=max(0.0, until - time.monotonic()))
            if not done:
                raise RegistryError(f"registry {self._registry}: no answer within {seconds:g} s")
            asked, self._asking = self._asking, None
            if time.monotonic() - asked.since <= seconds + _GRACE:
                break
            asked.answer.exception()  # it is nobody's
        version = asked.answer.result()
        self._metrics.registry_reachable.set(1)
        self.state.asked = time.time()
        self.state.version, self.state.digest = (version.number, version.digest) if version else (None, None)
        return version

    async def _offer_of(self, version: Version) -> Offer:
        """Where the version lies for this service. Touches the store, which may hang.

        Raises:
            CheckpointRefused: it leads out of the store.
        """
        store = self._settings.checkpoint_store
        # The publisher may have the store mounted elsewhere; in it, directories have the names that `publish` gave.
        directory = version.directory
        if store is not None:
            try:
                directory = await self._served.reads.read(store, lambda _: inside(store, directory.name))
            except CheckpointUnavailable as error:
                raise CheckpointRefused(str(error)) from error
        return Offer(directory, version.digest)

    async def _follow(self, version: Version) -> tuple[Outcome, str | None]:
        if version.digest == self._served.manifest.digest:
            await self._served.confirm()
            return "current", None
        if not self._admission.is_open:
            return "busy", self._admission.closed_because
        later = self._later if self._later and self._later.digest == version.digest else None
        if later and self._clock() < later.until:
            return later.outcome, later.reason
        offer = await self._offer_of(version)
        offered = await self._look(offer)
        if offered and (reason := self._served.memory.refused.get(judged_as(offered))) is not None:
            return "refused", reason
        if later is None and offered and self._hot_swap.needs_new_engine(offered):
            seconds = random.uniform(0, self._settings.rebuild_spread_seconds)  # noqa: S311
            if seconds > 0:
                reason = f"It needs a new engine, which is built after {seconds:.0f} s: not by a whole fleet at once."
                self._later = _Later(offer.digest, "waiting", reason, 0.0, self._clock() + seconds)
                return self._later.outcome, self._later.reason
        self._swap = asyncio.get_running_loop().create_task(
            self._hot_swap.take_up(offer.directory, digest=offer.digest)
        )
        self._later = None
        try:
            await asyncio.shield(self._swap)
        except SwapBusy as error:
            return self._again(offer, later, "busy", str(error))
        except CheckpointRefused as error:
            if offered and judged_as(offered) in self._served.memory.refused:
                return "refused", str(error)
            return self._again(offer, later, "unavailable", str(error))
        return "taken_up", None

    async def _look(self, offer: Offer) -> Manifest | None:
        """What its manifest says; None where it cannot be read or is another's, which taking it up will explain."""
        try:
            return await self._served.look(offer.directory, offer.digest)
        except CheckpointError:
            return None

    def _again(self, offer: Offer, before: _Later | None, outcome: Outcome, reason: str) -> tuple[Outcome, str]:
        """Try it again at the next poll, then after two more, after four more, ..."""
        poll = self._settings.registry_poll_seconds
        wait = min(max(2 * before.wait if before else 0.0, poll / 2), _LONGEST_WAIT * poll)
        self._later = _Later(offer.digest, outcome, reason, wait, self._clock() + wait)
        return outcome, reason

    def _note(self, outcome: Outcome, reason: str | None) -> None:
        """Say what became of a poll: in the metrics always, in the log when it is another thing than last time."""
        self._metrics.registry_polls.labels(outcome).inc()
        if outcome == "unreachable":
            self._metrics.registry_reachable.set(0)
        else:
            self._compare()
        if outcome != self.state.outcome:
            level = logging.INFO if outcome in _FINE else logging.WARNING
            fields = {"registry": self.state.registry, "alias": self.state.alias, "version": self.state.version}
            log(LOGGER, level, "registry", outcome=outcome, reason=reason, **fields)
        self.state.outcome, self.state.reason = outcome, reason

    def _compare(self) -> None:
        """Put into the metrics whether another checkpoint is served than the alias names."""
        serving = self._served.manifest.digest if self._served.begun else None
        self._metrics.registry_behind.set(self.state.digest is not None and self.state.digest != serving)


def follower_of(
    settings: Settings, hot_swap: HotSwap | None, admission: Admission, metrics: Metrics
) -> Follower | None:
    """A follower, where the settings name a registry and there is a checkpoint to change."""
    if settings.registry is None or hot_swap is None:
        return None
    return Follower(hot_swap, admission, metrics, settings)
