"""The cache stays within its limits, whatever is stored and read."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.metrics import Metrics
from service.pipeline.bounded_cache import ENTRY_BYTES, BoundedCache

pytestmark = pytest.mark.slow

KEYS = st.binary(min_size=1, max_size=1).map(lambda byte: byte * 32)


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def store(metrics: Metrics | None = None, **bounds: object) -> BoundedCache[bytes]:
    fixed = {"max_entries": 100, "max_bytes": 100_000, "size_of": len}
    return BoundedCache("answers", metrics or Metrics(), **(fixed | bounds))  # type: ignore[arg-type]


class Bounds(RuleBasedStateMachine):
    """Compared with the simplest model: a list of the entries in the order of their eviction."""

    @initialize(
        entries=st.integers(0, 6),
        room=st.integers(1, 6 * (ENTRY_BYTES + 100)),
        seconds=st.none() | st.integers(1, 10),
    )
    def begin(self, entries: int, room: int, seconds: int | None) -> None:
        self.clock, self.metrics = Time(), Metrics()
        self.entries, self.room, self.seconds = entries, room, seconds
        bounds = {"max_entries": entries, "max_bytes": room, "max_seconds": seconds, "clock": self.clock}
        self.store = store(self.metrics, **bounds)
        self.model: list[tuple[bytes, bytes, float]] = []

    def forget_the_old(self) -> None:
        if self.seconds is not None:
            self.model = [entry for entry in self.model if entry[2] + self.seconds > self.clock.now]

    @rule(key=KEYS, value=st.binary(max_size=3 * ENTRY_BYTES))
    def put(self, key: bytes, value: bytes) -> None:
        self.store.put(key, value)
        self.forget_the_old()
        self.model = [entry for entry in self.model if entry[0] != key]
        if self.entries and len(value) + ENTRY_BYTES <= self.room:
            self.model.append((key, value, self.clock.now))
        while len(self.model) > self.entries or self.model_bytes > self.room:
            self.model.pop(0)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        found = self.store.get(key)
        self.forget_the_old()
        expected = [entry for entry in self.model if entry[0] == key]
        assert found == (expected[0][1] if expected else None)
        if expected and self.seconds is None:
            self.model.remove(expected[0])
            self.model.append(expected[0])

    @rule(seconds=st.integers(0, 7))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    @property
    def model_bytes(self) -> int:
        return sum(len(value) + ENTRY_BYTES for _, value, _ in self.model)

    @invariant()
    def within_bounds(self) -> None:
        if not hasattr(self, "store"):
            return
        assert len(self.store) <= self.entries and self.store.bytes <= self.room
        self.store.get(b"never put")  # drops what has expired
        self.forget_the_old()
        assert (len(self.store), self.store.bytes) == (len(self.model), self.model_bytes)
        # Not from the registry, which would collect all metrics at every step.
        for gauge, expected in (
            (self.metrics.cache_entries, len(self.model)),
            (self.metrics.cache_bytes, self.model_bytes),
        ):
            assert sum(sample.value for sample in gauge.collect()[0].samples) == expected


TestBounds = Bounds.TestCase


def test_the_least_recently_used_entry_is_evicted_and_counted() -> None:
    metrics = Metrics()
    kept = store(metrics, max_entries=2)
    kept.put(b"a", b"1")
    kept.put(b"b", b"2")
    assert kept.get(b"a") == b"1"
    kept.put(b"c", b"3")
    assert (kept.get(b"a"), kept.get(b"b"), kept.get(b"c")) == (b"1", None, b"3")
    labels = {"kind": "answers", "reason": "full"}
    assert metrics.registry.get_sample_value("screening_evictions_total", labels) == 1


def test_reading_an_entry_does_not_extend_its_age() -> None:
    clock = Time()
    kept = store(max_seconds=10, clock=clock)
    kept.put(b"a", b"1")
    for clock.now in (4.0, 8.0):
        assert kept.get(b"a") == b"1"
    clock.now = 10.0
    assert kept.get(b"a") is None and len(kept) == 0 and kept.bytes == 0


def test_a_value_larger_than_the_cache_is_not_kept_and_evicts_nothing() -> None:
    kept = store(max_bytes=ENTRY_BYTES + 10)
    kept.put(b"a", b"1")
    kept.put(b"b", b"x" * 11)
    assert kept.get(b"a") == b"1" and kept.get(b"b") is None


@pytest.mark.parametrize("value_bytes", [0, 2_000])
def test_an_entry_takes_about_as_much_memory_as_is_counted(value_bytes: int) -> None:
    def take(count: int) -> BoundedCache[bytes]:
        kept = store(max_entries=10**6, max_bytes=10**9)
        for number in range(count):
            kept.put(number.to_bytes(32), bytes(value_bytes))
        return kept

    take(1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = take(5_000)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 < kept.bytes / taken < 1.5
