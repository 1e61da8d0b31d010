"""Hand-made exchanges, and runs of commands."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadtest.results.record import Exchange


@pytest.fixture(scope="session")
def exchange() -> Callable[..., Exchange]:
    """`exchange(sent=1.0, finished=1.5, status=429)`; an answer by default."""

    def made(**fields: Any) -> Exchange:
        moments = {"intended": 0.0, "sent": fields.get("intended", 0.0), "finished": 1.0}
        answer = {"number": 0, "status": 200, "outcome": "answered", "choice": "A", "source": "engine"}
        return Exchange(**{**answer, **moments, **fields})

    return made


@pytest.fixture(scope="session")
def parse() -> Callable[..., argparse.Namespace]:
    """The arguments of a command, as its own parser reads them."""

    def parsed(command: str, *arguments: str, **others: Any) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"loadtest.commands.{command}").add_arguments(parser)
        args = parser.parse_args(arguments)
        # Small pictures: drawing large ones takes longer than the run.
        vars(args).update({"picture_sizes": ((96, 96),), **others})
        return args

    return parsed


@dataclass(frozen=True)
class Left:
    """The files that a run left in its directory."""

    directory: Path

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / name).read_text().splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return summary

    def failed(self) -> list[str]:
        """The criteria that were not met."""
        return [each["criterion"] for each in self.summary["verdicts"] if each["passed"] is False]


@pytest.fixture(scope="session")
def left() -> Callable[[Path], Left]:
    return Left
