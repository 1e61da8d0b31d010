"""Allows one run at a time per registered model, and keeps stale runs from publishing or promoting.

Two locks. A file lock in the work directory keeps two calls from using the same directory, and is released when its
process ends. The registry does the same for runs on different machines: each call creates a version of the model
`NAME.retrain`, whose number MLflow gives out once. That number is the fencing token: only the run that holds the
highest one may publish and promote, whatever it believes about its own lease.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from screening.checkpoint.registry import Registry
from screening.errors import RegistryError
from screening.runtime.atomic_write import write_atomically
from trainer.release.retrain.errors import Busy, Stale
from trainer.runs.process_lock import LOCK_NAME, open_lock_file, try_lock

LEASE_SUFFIX = ".retrain"
IDENTITY_NAME = "identity"
RENEWALS_PER_LEASE = 5

_WORK, _HOLDER, _SEEN, _RELEASED = "work", "holder", "seen", "released"


@contextmanager
def work_lock(work: Path) -> Iterator[bool]:
    """Lock a work directory until the block or the process ends. Yields whether the file system keeps such locks.

    Raises:
        Busy: another process works in it.
    """
    work.mkdir(parents=True, exist_ok=True)
    handle = open_lock_file(work / LOCK_NAME)
    try:
        try:
            free, kept = try_lock(handle), True
        except OSError:  # a file system without locks: only the registry's lease protects the run
            free, kept = True, False
        if not free:
            raise Busy(f"another retraining uses {work}; wait for it to end")
        yield kept
    finally:
        os.close(handle)


def identity_of(work: Path) -> str:
    """A random name that a work directory keeps, by which a run recognises its own lease after a kill."""
    path = work / IDENTITY_NAME
    if not path.exists():
        write_atomically(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Lease:
    """The newest fencing token of a registered model, and who holds it."""

    token: int
    work: str
    holder: str
    seen: float
    """Unix time of the holder's last sign of life."""
    released: bool

    def held_against(self, work: str, seconds: float, *, ours_ended: bool) -> bool:
        """Whether a run in the directory `work` must wait for the holder.

        Args:
            ours_ended: an earlier run in the same directory has certainly ended.
        """
        # A sign of life from the far future was given by a clock that was wrong: the lease would never end.
        if self.released or abs(time.time() - self.seen) > seconds:
            return False
        return not (ours_ended and self.work == work)


def newest_lease(registry: Registry) -> Lease | None:
    """The newest lease; None if there was no run yet.

    Raises:
        RegistryError: the registry does not answer.
    """
    if registry.missing:
        return None
    with registry.client() as client:
        found = client.search_model_versions(f"name = '{registry.model}{LEASE_SUFFIX}'")
    newest = max(found, key=lambda version: int(version.version), default=None)
    return None if newest is None else _lease(newest)


def busy_with(registry: Registry, work: str, seconds: float, *, ours_ended: bool) -> str | None:
    """Who holds the model, as a sentence; None if it is free.

    Raises:
        RegistryError: the registry does not answer.
    """
    lease = newest_lease(registry)
    if lease is None or not lease.held_against(work, seconds, ours_ended=ours_ended):
        return None
    age = max(0.0, time.time() - lease.seen)
    return (
        f"another retraining of {registry.model} runs on {lease.holder} (fencing token {lease.token}, last sign of "
        f"life {age:.0f} s ago)"
    )


class FencingToken:
    """Hold this run's fencing token for the block; a thread renews it, and the end of the block releases it."""

    def __init__(self, registry: Registry, work: str, holder: str, lease_seconds: float) -> None:
        self._registry, self._work, self._holder = registry, work, holder
        self._seconds = lease_seconds
        self._name = registry.model + LEASE_SUFFIX
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.number = 0

    def acquire(self, *, ours_ended: bool) -> None:
        """Take the next fencing token.

        Raises:
            Busy: another run holds the model, or took it at the same moment.
            RegistryError: the registry does not answer.
        """
        if holder := busy_with(self._registry, self._work, self._seconds, ours_ended=ours_ended):
            raise Busy(f"{holder}; wait for it to end")
        tags = {_WORK: self._work, _HOLDER: self._holder, _SEEN: repr(time.time())}
        with self._registry.client(create=True) as client:
            self._registry.create_model(client, self._name)
            made = client.create_model_version(self._name, f"retrain:{self._work}", tags=tags)
        self.number = int(made.version)
        self._thread.start()
        try:
            self.check()
        except Stale as error:  # two runs began at the same moment; the later one continues
            raise Busy(str(error)) from None

    def check(self) -> None:
        """Check that no later run has begun. Called right before publishing and promoting.

        Raises:
            Stale: one has.
            RegistryError: the registry does not answer.
        """
        lease = newest_lease(self._registry)
        if lease is None or (lease.token, lease.work) != (self.number, self._work):
            now = "gone" if lease is None else f"{lease.token}, held by {lease.holder}"
            raise Stale(
                f"this run has fencing token {self.number}, but the newest is {now}: a later run has taken over"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        if self.number:
            self._thread.join()
            with suppress(RegistryError):  # the lease expires on its own
                self._tag(_RELEASED, "true")

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds / RENEWALS_PER_LEASE):
            with suppress(RegistryError):  # `check` asks again before anything is moved
                self._tag(_SEEN, repr(time.time()))

    def _tag(self, key: str, value: str) -> None:
        with self._registry.client() as client:
            client.set_model_version_tag(self._name, str(self.number), key, value)


def _lease(version: Any) -> Lease:
    tags = version.tags
    return Lease(
        token=int(version.version),
        work=tags.get(_WORK, ""),
        holder=tags.get(_HOLDER, "an unknown machine"),
        seen=_time(tags.get(_SEEN, "")),
        released=tags.get(_RELEASED) == "true",
    )


def _time(text: str) -> float:
    """Unix time of a tag; 0 if the tag is not a number, so that its lock counts as expired."""
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
