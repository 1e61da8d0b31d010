"""What kind of machine computes, as far as rounding goes: machines of one name are expected to give equal numbers.

They need not: a driver or a microcode may round otherwise and show in no name. Then probes that one of them recorded
are refused by the other (service/checkpoints/verification.py), until they are recorded there: `python -m trainer
publish --again`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from screening.runtime.cpus import usable_cpus

_MATRIX_INSTRUCTIONS = (
    *("fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)
"""Flags of a processor by which libraries choose how to multiply matrices."""
_FIELDS = {"cpu family": "family", "model": "model", "CPU part": "part", "CPU variant": "variant"}
"""What Linux calls the numbers that tell processors of one maker apart, the first two on x86 and the others on Arm."""
_ALSO_DECIDE = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "VLLM_CPU_ATTN_SPLIT_KV"),
)
"""Variables that change how a processor adds up: in which order, and with which instructions."""
_ROOT = Path("/")


def machine_name(device: str, root: Path = _ROOT) -> str:
    """Such as `vllm 0.32.0, torch 2.13.0 on AuthenticAMD family 25 model 1 fma avx2, L2 512K, threads 1`.

    Call it once the engine's environment is set.

    Args:
        device: the accelerator's name, or `cpu`.
        root: where `proc` and `sys` are found; for tests.
    """
    versions = f"vllm {_version('vllm-cpu', 'vllm')}, torch {_version('torch')}"
    if device != "cpu":
        return f"{versions} on {device}"
    # How vLLM's attention divides its sums depends on the size of the second cache, and torch's on the threads.
    cache = _text(root / "sys/devices/system/cpu/cpu0/cache/index2/size").strip()
    parts = [processor(_text(root / "proc/cpuinfo")), *([f"L2 {cache}"] if cache else [])]
    parts += [f"threads {_threads(os.environ, usable_cpus(root))}"]
    parts += [f"{name} {os.environ[name]}" for name in _ALSO_DECIDE if name in os.environ]
    return f"{versions} on {', '.join(parts)}"[:1000]


def processor(cpuinfo: str) -> str:
    """Maker, model and matrix instructions of each kind of processor that Linux describes in this text."""
    kinds = dict.fromkeys(filter(None, map(_kind, re.split(r"\n\s*\n", cpuinfo))))
    return " + ".join(kinds) or "cpu"


def _kind(core: str) -> str:
    values = dict(re.findall(r"^([^\t:]+?)[ \t]*: ?(.*)$", core, re.MULTILINE))
    maker = values.get("vendor_id") or values.get("CPU implementer")
    flags = (values.get("flags") or values.get("Features") or "").split()
    model = [f"{word} {values[name]}" for name, word in _FIELDS.items() if name in values]
    known = [maker] if maker else []
    return " ".join([*known, *model, *(flag for flag in _MATRIX_INSTRUCTIONS if flag in flags)])


def _threads(environment: Mapping[str, str], cpus: int) -> int:
    """Threads that compute: vLLM starts no more than there are usable CPUs."""
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(first), cpus) if first.isdecimal() and int(first) else cpus


def _text(path: Path) -> str:
    """Empty where there is no such file: not Linux, or not shown in this container."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _version(*packages: str) -> str:
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "unknown"
