"""A machine's name contains what decides its rounding, and nothing that changes over time."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.runtime.machine import has_bfloat16, machine_name, processor


def x86(maker: str, family: int, model: int, flags: str, **more: str) -> str:
    """One core as Linux describes it."""
    lines = [f"vendor_id\t: {maker}", f"cpu family\t: {family}", f"model\t\t: {model}", "model name\t: EPYC or Xeon"]
    lines += [f"{name}\t: {value}" for name, value in {"stepping": "1", "power management": "", **more}.items()]
    return "\n".join(["processor\t: 0", *lines, f"flags\t\t: fpu sse2 {flags} bmi2", "bugs\t\t: none"]) + "\n\n"


def arm(part: str, variant: str = "0x3", features: str = "fp asimd evtstrm i8mm bf16") -> str:
    return (
        f"processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {variant}\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
    )


SAPPHIRE = x86("GenuineIntel", 6, 143, "avx2 avx512f amx_tile avx512_bf16 amx_bf16")
ZEN_2, ZEN_3 = (x86("AuthenticAMD", family, 1, "fma avx2") for family in (23, 25))
NEOVERSE_N2, NEOVERSE_V2 = arm("0xd49"), arm("0xd4f")


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (SAPPHIRE * 4, "GenuineIntel family 6 model 143 avx2 avx512f avx512_bf16 amx_bf16"),
        (ZEN_3 * 2, "AuthenticAMD family 25 model 1 fma avx2"),
        (NEOVERSE_N2 * 2, "0x41 part 0xd49 variant 0x3 asimd bf16 i8mm"),
        (NEOVERSE_N2 + NEOVERSE_V2 * 2, f"{processor(NEOVERSE_N2)} + {processor(NEOVERSE_V2)}"),
        ("", "cpu"),
        ("no such thing\n\n\n", "cpu"),
    ],
)
def test_a_processor_is_named_by_its_matrix_instructions(cpuinfo: str, name: str) -> None:
    assert processor(cpuinfo) == name


ALIKE = [
    SAPPHIRE,
    SAPPHIRE.replace(" amx_bf16", ""),
    SAPPHIRE.replace("143", "207"),
    ZEN_2,
    ZEN_3,
    x86("AuthenticAMD", 25, 17, "fma avx2"),
    NEOVERSE_N2,
    NEOVERSE_V2,
    arm("0xd49", variant="0x0"),
    arm("0xd49", features="fp asimd sve sve2"),
]


def test_no_two_processors_that_round_otherwise_have_one_name() -> None:
    assert len({processor(one) for one in ALIKE}) == len(ALIKE)


def test_values_that_change_over_time_are_not_in_a_machines_name() -> None:
    faster = ZEN_3.replace("stepping\t: 1", "stepping\t: 1\ncpu MHz\t: 3200.1\nmicrocode\t: 0xa0011d5")
    assert processor(faster) == processor(ZEN_3)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 usable CPUs, 512 KiB of second cache, and an environment that decides nothing."""
    for name, text in {"proc/cpuinfo": ZEN_3 * 8, "sys/devices/system/cpu/cpu0/cache/index2/size": "512K\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name in ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_machine_is_named_by_processor_cache_threads_and_versions(root: Path) -> None:
    name = machine_name("cpu", root)
    assert name.startswith("vllm ") and ", torch " in name
    assert name.endswith(" on AuthenticAMD family 25 model 1 fma avx2, L2 512K, threads 8")
    (root / "sys/devices/system/cpu/cpu0/cache/index2/size").unlink()
    assert machine_name("cpu", root, in_float32=True).endswith(" fma avx2, threads 8, float32")
    assert machine_name("cpu", root).endswith(" fma avx2, threads 8"), "not every container shows its caches"


@pytest.mark.parametrize(
    ("variable", "threads"), [("3", 3), ("3,2", 3), ("64", 8), ("0", 8), ("many", 8), ("-1", 8), ("", 8), ("\u00b2", 8)]
)
def test_the_machines_name_counts_the_threads_that_compute(variable, threads, root, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert machine_name("cpu", root).endswith(f", threads {threads}")


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "ATEN_CPU_CAPABILITY"])
def test_variables_that_choose_instructions_are_in_the_name(variable, root, monkeypatch) -> None:
    before = machine_name("cpu", root)
    monkeypatch.setenv(variable, "AVX2")
    assert machine_name("cpu", root) == f"{before}, {variable} AVX2"


def test_a_name_always_fits_into_a_manifest(root, monkeypatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "x" * 5000)
    assert len(machine_name("cpu", root)) == 1000


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [("fma avx2", False), ("avx2 avx512f", False), ("avx512f avx512_bf16", True), ("amx_bf16", True), ("bf16", True)],
)
def test_bfloat16_instructions_are_found_among_the_flags(flags, has_it, root) -> None:
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(f"vendor_id\t: GenuineIntel\nflags\t\t: fpu {flags} aes\n")
    assert has_bfloat16(root) is has_it
    cpuinfo.unlink()
    assert not has_bfloat16(root)


def test_an_accelerator_is_named_by_itself() -> None:
    assert machine_name("NVIDIA H100 80GB HBM3").endswith(" on NVIDIA H100 80GB HBM3")
