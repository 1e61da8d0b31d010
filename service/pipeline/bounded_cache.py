"""An in-memory cache that is bounded by entries, by bytes and, optionally, by age.

cachetools does not fit: its caches have one bound, its TTLCache does not evict the oldest entry first, and counting
evictions by reason means overriding the methods that remove entries.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.metrics import Metrics

Value = TypeVar("Value")

ENTRY_BYTES = 320
"""Memory of a 32-byte key, its entry object and their slot in the dictionary."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    size: int
    put_at: float


class BoundedCache(Generic[Value]):
    """Values by key. A full cache evicts the least recently used entry or, if it has an age limit, the oldest."""

    def __init__(
        self,
        kind: str,
        metrics: Metrics,
        *,
        max_entries: int,
        max_bytes: int,
        size_of: Callable[[Value], int],
        max_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            kind: name of the cache in the metrics.
            max_entries: maximum number of entries; 0 stores nothing.
            max_bytes: maximum memory, including keys and book-keeping. A larger value is not stored.
            size_of: returns the memory of a value in bytes.
            max_seconds: age at which an entry expires; None for no limit.
        """
        self._kind = kind
        self._metrics = metrics
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._max_seconds = max_seconds
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry[Value]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Value | None:
        self._drop_expired()
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._max_seconds is None:
            self._entries.move_to_end(key)
        return entry.value

    def put(self, key: bytes, value: Value) -> None:
        """Store a value and replace one with the same key."""
        self._drop_expired()
        if key in self._entries:
            self._remove(key)
        size = self._size_of(value) + ENTRY_BYTES
        if self._max_entries and size <= self._max_bytes:
            self._entries[key] = _Entry(value, size, self._clock())
            self.bytes += size
            while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
                self._evict("full")
        self._show()

    def _drop_expired(self) -> None:
        """Remove expired entries. With an age limit, entries are never moved, so that the oldest is always first."""
        if self._max_seconds is None:
            return
        oldest_allowed = self._clock() - self._max_seconds
        while self._entries and next(iter(self._entries.values())).put_at <= oldest_allowed:
            self._evict("expired")
        self._show()

    def _evict(self, reason: str) -> None:
        self._remove(next(iter(self._entries)))
        self._metrics.evictions.labels(self._kind, reason).inc()

    def _remove(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).size

    def _show(self) -> None:
        self._metrics.cache_entries.labels(self._kind).set(len(self._entries))
        self._metrics.cache_bytes.labels(self._kind).set(self.bytes)
