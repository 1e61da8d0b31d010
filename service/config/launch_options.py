"""Adds a command-line option for each setting: its name, its value and its help."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from service.config.settings import PREFIX, Settings

_UNITS = {"seconds": "SECONDS", "ms": "MILLISECONDS", "bytes": "BYTES", "pixels": "PIXELS", "file": "FILE"}
"""Placeholder for an option's value, by the last word of the setting's name."""
_BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def add_options(parser: ArgumentParser) -> None:
    """Add one option for each setting. Values stay text, which `Settings` parses."""
    for name, field in Settings.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, metavar=_takes(name, field), help=_help(name, field)
        )


def _takes(name: str, field: FieldInfo) -> str:
    kind = _kind(field)
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if kind is bool:
        return "{true,false}"
    if (unit := _UNITS.get(name.rpartition("_")[2])) is not None:
        return unit
    if get_origin(kind) is tuple:
        return "VALUE[,VALUE…]"
    return {Path: "DIR", int: "N", float: "NUMBER"}.get(kind, "TEXT")


def _kind(field: FieldInfo) -> Any:
    """The type of a setting without None."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    return kind


def _help(name: str, field: FieldInfo) -> str:
    facts = [
        f"{words} {value:g}"
        for constraint in field.metadata
        for bound, words in _BOUNDS.items()
        if (value := getattr(constraint, bound, None)) is not None
    ]
    facts.append("required by --engine vllm" if name == "checkpoint" else f"default: {_default(field)}")
    return f"{field.description} ({'; '.join(facts)}) [{PREFIX}{name.upper()}]".replace("%", "%%")


def _default(field: FieldInfo) -> str:
    if field.default in (None, ()):
        return "none"
    return f"{field.default:.15g}" if isinstance(field.default, float) else str(field.default)
