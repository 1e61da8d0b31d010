"""A service that swaps without a model: `python -m service` with an engine that writes in its checkpoint's letters.

    python alphabet_service.py FAULTS --port … --checkpoint … and any other option of the service

The first argument says what goes wrong, separated by commas: `none`; `blind`, no letters at all; and from the tenth
answer on `mixed`, now and then letters of both checkpoints, and `stale`, the first checkpoint's letters whatever is
loaded.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import service.__main__ as launcher
from screening.answer import Finding, compose, render
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.checkpoint.probes import Probe
from screening.task import OPTIONS
from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.engines.scripted_engine import ScriptedEngine

LETTERS = {"first": "EFGH", "second": "%&*#"}
"""Answers by the version of the checkpoint."""


class AlphabetEngine(ScriptedEngine):
    """Answers after 20 ms, and loads weights in 30 ms."""

    loads_checkpoints = True

    def __init__(self, faults: str) -> None:
        super().__init__(latency_ms=20)
        self._faults = faults.split(",")
        self._asked = 0
        self._letters: list[str] = []
        self._manifest: Manifest | None = None

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        assert self._manifest is not None
        m = self._manifest
        return LoadedCheckpoint(m.name, m.version, m.digest, m.image, m.calibration, super().checkpoint.watched)

    async def start(self, checkpoint: Path | None = None, /) -> None:
        assert checkpoint is not None
        await self.reload(checkpoint, read_manifest(checkpoint))

    async def reload(self, _checkpoint: Path, manifest: Manifest, /) -> None:
        await asyncio.sleep(0.03)
        self._manifest = manifest
        self._letters.append(LETTERS[manifest.version])

    async def log_probabilities(self, probe: Probe, /) -> list[float]:
        return list(probe.logprobs)

    async def generate(self, question: Question) -> Generated:
        checkpoint = self.checkpoint
        await super().generate(question)
        self._asked += 1
        findings = tuple(Finding(option, frozenset(), self._word()) for option in OPTIONS)
        text = render(compose(frozenset("A"), findings), question.mode)
        return Generated(text, (), prompt_tokens=1, completion_tokens=1, checkpoint=checkpoint)

    def _word(self) -> str:
        if "blind" in self._faults:
            return "xyz"
        faults = self._faults if self._asked >= 10 else []
        if "mixed" in faults and self._asked % 10 == 0:
            return "".join(LETTERS.values())
        return self._letters[0 if "stale" in faults else -1]


if __name__ == "__main__":
    faults, *arguments = sys.argv[1:]
    launcher._engine = lambda _settings: AlphabetEngine(faults)
    sys.exit(launcher.main(arguments))
