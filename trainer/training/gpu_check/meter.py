"""Measures bytes and seconds on a GPU or a CPU."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Meter(Protocol):
    """Bytes of tensors on one device, and seconds of work there."""

    device: torch.device

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Bytes are counted within this context only."""

    def allocated(self) -> int:
        """Bytes that are allocated now."""

    def reset_peak(self) -> None:
        """Start to look for the peak."""

    def peak(self) -> int:
        """Maximum of the allocated bytes since `reset_peak`."""

    def outside(self) -> int | None:
        """Bytes that the process holds besides the allocated ones at the peak; None if unknown."""

    def wait(self) -> None:
        """Wait until the device has done its work."""


def seconds(meter: Meter, work: Callable[[], Any], *, repeats: int, until: float) -> float:
    """Median seconds of a piece of work.

    Args:
        repeats: number of measurements.
        until: time (`time.monotonic`) after which no further measurement starts; there is at least one.
    """
    taken: list[float] = []
    while len(taken) < repeats and (not taken or time.monotonic() < until):
        meter.wait()
        began = time.perf_counter()
        work()
        meter.wait()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


class GpuMeter:
    """Reads torch's CUDA allocator."""

    def __init__(self, device: torch.device, limit: int | None) -> None:
        """
        Args:
            limit: bytes that the process may allocate, to find out what a smaller card holds; None for all.
        """
        self.device = device
        if limit:
            share = limit / torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)

    @contextmanager
    def counting(self) -> Iterator[None]:
        yield

    def allocated(self) -> int:
        return int(torch.cuda.memory_allocated(self.device))

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return int(torch.cuda.max_memory_allocated(self.device))

    def outside(self) -> int | None:
        free, total = torch.cuda.mem_get_info(self.device)
        context = total - free - torch.cuda.memory_reserved(self.device)
        return int(context + torch.cuda.max_memory_reserved(self.device) - self.peak())

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)


class CpuMeter(TorchDispatchMode):
    """Counts the storages that torch's operations return, for as long as they live.

    Temporary memory inside an operation is not seen.
    """

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self._limit = limit
        self._now = self._most = 0
        self._alive: set[int] = set()

    @contextmanager
    def counting(self) -> Iterator[None]:
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or storage.device.type != "cpu":
            return
        self._alive.add(key)
        weakref.finalize(storage, self._free, key, size).atexit = False
        self._now += size
        self._most = max(self._most, self._now)
        if self._limit and self._now > self._limit:
            raise torch.OutOfMemoryError(f"{self._now:,} bytes are more than the limit of {self._limit:,}")

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size

    def allocated(self) -> int:
        return self._now

    def reset_peak(self) -> None:
        self._most = self._now

    def peak(self) -> int:
        return self._most

    def outside(self) -> int | None:
        return None

    def wait(self) -> None:
        pass


def make_meter(device: torch.device, limit: int | None) -> Meter:
    return GpuMeter(device, limit) if device.type == "cuda" else CpuMeter(limit)
