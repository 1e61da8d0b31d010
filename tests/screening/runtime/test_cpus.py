"""CPUs that may be used: the affinity, and the quotas of both versions of control groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from screening.runtime.cpus import engine_threads, limit_threads, usable_cpus

MachineOf = Callable[[int, Mapping[str, str]], Path]


@pytest.fixture
def machine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineOf:
    """A root directory with these files, on a machine with so many cores."""

    def make(cores: int, files: Mapping[str, str]) -> Path:
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cores)))
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


V2 = {"proc/self/cgroup": "0::/\n"}
V1 = {"proc/self/cgroup": "12:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n0::/system.slice\n"}
HYBRID = {"proc/self/cgroup": "2:cpu:/\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        (V2 | {"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
        (V2 | {"sys/fs/cgroup/cpu.max": "nonsense"}, 64),
        (V2, 64),
        ({}, 64),
        ({"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000",
                "sys/fs/cgroup/pod/box/cpu.max": "800000 100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        # In a container the mount shows its own group, whatever path /proc gives.
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000"}, 1),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 64),
        (HYBRID | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "20000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "10000"}, 2),
    ],
)
def test_the_quota_counts_where_it_is_below_the_cores(machine_of, files, usable) -> None:
    assert usable_cpus(machine_of(64, files)) == usable


def test_the_affinity_counts_where_it_is_below_the_quota(machine_of) -> None:
    assert usable_cpus(machine_of(2, V2 | {"sys/fs/cgroup/cpu.max": "800000 100000"})) == 2


@pytest.mark.parametrize(("quota", "threads"), [("50000", 1), ("100000", 1), ("200000", 1), ("400000", 3)])
def test_one_usable_cpu_is_left_beside_the_engine(machine_of, quota, threads) -> None:
    assert engine_threads(machine_of(64, V2 | {"sys/fs/cgroup/cpu.max": f"{quota} 100000"})) == threads


def test_libraries_learn_of_a_quota_that_they_do_not_see(machine_of) -> None:
    environment: dict[str, str] = {}
    limit_threads(environment, machine_of(64, V2 | {"sys/fs/cgroup/cpu.max": "200000 100000"}))
    assert environment == {"OMP_NUM_THREADS": "1"}


def test_the_operators_number_of_threads_stays(machine_of) -> None:
    environment = {"OMP_NUM_THREADS": "7"}
    limit_threads(environment, machine_of(64, V2 | {"sys/fs/cgroup/cpu.max": "200000 100000"}))
    assert environment == {"OMP_NUM_THREADS": "7"}


def test_without_a_quota_nothing_is_set(machine_of) -> None:
    environment: dict[str, str] = {}
    limit_threads(environment, machine_of(64, V2))
    assert environment == {}
