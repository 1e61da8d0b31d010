"""Names the kind of machine that computes. Machines with the same name are expected to produce the same numbers.

They may still differ, because a driver or microcode can round differently without changing the name. One of them then
refuses the probes that the other recorded (service/checkpoints/verification.py), until `python -m trainer publish
--again` records them there.
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
"""Processor flags that determine how libraries multiply matrices."""
_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor flags of which one is needed to multiply bfloat16 matrices faster than float32 ones. The last is Arm's."""
_FIELDS = {"cpu family": "family", "model": "model", "CPU part": "part", "CPU variant": "variant"}
"""Linux's names for the fields that identify a processor model. The first two exist on x86, the others on Arm."""
_ALSO_DECIDE = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "VLLM_CPU_ATTN_SPLIT_KV"),
)
"""Variables that change the order of additions or the instructions for them."""
_ROOT = Path("/")


def has_bfloat16(root: Path = _ROOT) -> bool:
    """Return whether the processor has instructions for bfloat16.

    Without them, it converts each matrix. On a processor with AVX2 alone, models/tiny answers 3 to 6 times as fast in
    float32 and writes the same words.

    Args:
        root: directory that contains `proc`; for tests.
    """
    return bool(_BFLOAT16_INSTRUCTIONS & set(processor(_text(root / "proc/cpuinfo")).split()))


def machine_name(device: str, root: Path = _ROOT, *, in_float32: bool = False) -> str:
    """Return a name such as `vllm 0.32.0, torch 2.13.0 on AuthenticAMD family 25 model 1 fma avx2, L2 512K, threads 1`.

    Call this after setting the engine's environment.

    Args:
        device: name of the accelerator, or `cpu`.
        root: directory that contains `proc` and `sys`; for tests.
        in_float32: whether the engine computes in float32 in place of bfloat16.
    """
    versions = f"vllm {_version('vllm-cpu', 'vllm')}, torch {_version('torch')}"
    if device != "cpu":
        return f"{versions} on {device}"
    # The L2 cache size determines how vLLM's attention splits its sums, and the number of threads how torch does.
    cache = _text(root / "sys/devices/system/cpu/cpu0/cache/index2/size").strip()
    parts = [processor(_text(root / "proc/cpuinfo")), *([f"L2 {cache}"] if cache else [])]
    parts += [f"threads {_threads(os.environ, usable_cpus(root))}"]
    parts += [f"{name} {os.environ[name]}" for name in _ALSO_DECIDE if name in os.environ]
    parts += ["float32"] if in_float32 else []
    return f"{versions} on {', '.join(parts)}"[:1000]


def processor(cpuinfo: str) -> str:
    """Return the maker, model and matrix instructions of each kind of processor in a text of `/proc/cpuinfo`."""
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
    """Return the number of computing threads. vLLM starts at most one per usable CPU."""
    first = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(first), cpus) if first.isdecimal() and int(first) else cpus


def _text(path: Path) -> str:
    """Return the text of a file; empty if the file does not exist or the container hides it."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _version(*packages: str) -> str:
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "unknown"
