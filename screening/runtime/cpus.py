"""Determines how many CPUs this process may use, from its CPU affinity and the quotas of its control groups.

Libraries count the cores of the machine. Under a quota of 2 CPUs on a machine with 64 cores, they would start 64
threads, which would use up the quota of each period at once and then stall for the rest of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Return the number of usable CPUs, at least 1. A quota of 1.5 CPUs counts as 2.

    Args:
        root: directory that contains `proc` and `sys`; for tests.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min([allowed, *quotas]))


def engine_threads(root: Path = _ROOT) -> int:
    """Return the number of threads for the model on a CPU. One CPU is left for everything else."""
    return max(1, usable_cpus(root) - 1)


def limit_threads(environment: MutableMapping[str, str], root: Path = _ROOT) -> None:
    """Make OpenMP, and thereby torch and numpy, respect a CPU quota.

    Call this before importing them. It does nothing without a quota, or if the operator has set OMP_NUM_THREADS.
    """
    if usable_cpus(root) < len(os.sched_getaffinity(0)):
        environment.setdefault("OMP_NUM_THREADS", str(engine_threads(root)))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of this process's control groups and of their parent groups."""
    for controllers, group in _groups(root):
        if not controllers:
            yield from _each(root / "sys/fs/cgroup", group, _quota_v2)
            yield from _each(root / "sys/fs/cgroup/unified", group, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys((controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu")):
                yield from _each(root / "sys/fs/cgroup" / mount, group, _quota_v1)


def _groups(root: Path) -> list[tuple[str, str]]:
    """Return the controllers and the path of each control group of this process (cgroups(7)).

    Groups of version 2 have no controllers.
    """
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        return [(fields[1], fields[2]) for line in lines if len(fields := line.split(":", 2)) == 3]
    return []


def _each(mount: Path, group: str, quota: Callable[[Path], float | None]) -> Iterator[float]:
    # In a container, the group's path may be that of the host, and only the mount itself is visible.
    inside = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    for depth in range(len(inside) + 1):
        with suppress(OSError, ValueError):
            if (found := quota(mount.joinpath(*inside[:depth]))) is not None:
                yield found


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    return None if quota == "max" else _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
    return _ratio(quota, (group / "cpu.cfs_period_us").read_text(encoding="ascii"))


def _ratio(quota: str, period: str) -> float | None:
    """Return the quota in CPUs; None without a quota, which version 1 writes as -1."""
    microseconds, of = int(quota), int(period)
    return microseconds / of if microseconds > 0 and of > 0 else None
