"""An engine that holds one checkpoint and fails at points that a test chooses, with checkpoints that are small enough
to write."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from screening.answer import Mode
from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import Decoding, ImageContract, Manifest, read_manifest, store_manifest
from screening.checkpoint.probes import Probe, Probes
from screening.checkpoint.seal import sealed, verdict_key
from screening.errors import CheckpointError
from screening.prompt import COMPACT
from service.config.settings import Settings
from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.engines.scripted_engine import ScriptedEngine
from service.errors import EngineFailed, EngineLost

_KEY = "a key of the operator"
ADMIN = {"Authorization": f"Bearer {_KEY}"}
ADMIN_KEYS = hashlib.sha256(_KEY.encode()).hexdigest()


ROUNDING = 0.02
"""Distance of `ObedientEngine` from float32."""


def logprobs_of(directory: Path) -> tuple[float, ...]:
    """Log-probabilities of `ObedientEngine` for its weights: numbers that follow from the file."""
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).digest()
    return tuple(-2 - byte / 10 for byte in digest[:6])


def make_checkpoint(directory: Path, seed: int, *, tokenizer: str = "{}", **tensors: np.ndarray) -> Path:
    """Write a complete checkpoint with weights of this seed and their probes."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    weights = {"a": rng.normal(size=(4, 8)).astype(np.float32), "b": rng.normal(size=8).astype(np.float32)}
    save_file(weights | tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer.json").write_text(tokenizer)
    describe(directory, version=str(seed))
    return directory


def describe(directory: Path, **fields: Any) -> Manifest:
    """Write the manifest of a directory, probes included."""
    numbers = logprobs_of(directory)
    exact = tuple(value - ROUNDING for value in numbers)
    probe = Probe(seed=0, mode=Mode.COT, answer="x", logprobs=numbers, exact=exact)
    fields = {"name": "test", "version": "0", "prompt": COMPACT, "decoding": Decoding()} | fields
    fields |= {"image": ImageContract(size=112, tokens_per_picture=16)}
    return write_sealed(directory, probes=Probes(questions=(probe,), tolerance=0.01, machine="there"), **fields)


def write_sealed(directory: Path, **fields: Any) -> Manifest:
    """Write the manifest of a directory, sealed as if its probes had been recorded on it."""
    manifest = sealed(write_manifest(directory, **fields))
    store_manifest(manifest, directory)
    return manifest


def change_manifest(directory: Path, *, seal: bool = True, **changes: Any) -> None:
    """Change fields of the manifest, and renew the seal unless the change must be detected."""
    manifest = read_manifest(directory).model_copy(update=changes)
    store_manifest(sealed(manifest) if seal else manifest, directory)


def one_bit(directory: Path) -> None:
    """Flip one bit in the weights."""
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (directory / "model.safetensors").write_bytes(weights)


def digest(directory: Path) -> str:
    """Digest of a published checkpoint."""
    return read_manifest(directory).digest


def key_of(directory: Path) -> str:
    """Key of a verdict on a published checkpoint."""
    return verdict_key(read_manifest(directory))


def copy_of(checkpoint: Path, state: Path) -> Path:
    """The copy of a published checkpoint in a service's state directory."""
    return state / "checkpoints" / key_of(checkpoint).rpartition(":")[2]


def remembered(state: Path) -> dict[str, Any]:
    """The content of a service's `state.json`."""
    noted: dict[str, Any] = json.loads((state / "state.json").read_text())
    return noted


def copies(state: Path) -> set[str]:
    """Digests of the copies in a service's state directory."""
    return {digest(copy) for copy in (state / "checkpoints").iterdir()}


def with_probes(directory: Path, off: float, *, exact: bool = True) -> None:
    """Other probes, with or without float32's numbers; the digest stays."""
    manifest = read_manifest(directory)
    assert manifest.probes is not None
    (probe,) = manifest.probes.questions
    numbers = {"logprobs": tuple(value + off for value in probe.logprobs)}
    numbers["exact"] = tuple(value + off for value in probe.exact) if exact and probe.exact else None
    other = probe.model_copy(update=numbers)
    probes = manifest.probes.model_copy(update={"questions": (other,)})
    change_manifest(directory, probes=probes)


def recorded_elsewhere(directory: Path) -> None:
    """Probes that another kind of machine recorded, which rounds the other way; the digest stays."""
    manifest = read_manifest(directory)
    assert manifest.probes is not None
    (probe,) = manifest.probes.questions
    other = probe.model_copy(update={"logprobs": tuple(value - ROUNDING for value in probe.exact or ())})
    probes = Probes(questions=(other,), tolerance=0.01, machine="elsewhere")
    change_manifest(directory, probes=probes)


def version(wanted: str) -> Callable[[Path], bool]:
    """For `ObedientEngine.fails`: only with the checkpoint of this version."""
    return lambda directory: read_manifest(directory).version == wanted


class ObedientEngine(ScriptedEngine):
    """Holds one checkpoint at a time and fails at the points that the test chooses."""

    loads_checkpoints = True

    def __init__(self, *, latency_ms: float = 0) -> None:
        super().__init__(latency_ms=latency_ms)
        self.loaded: Path | None = None
        self.history: list[str] = []
        self.fails: dict[str, Callable[[Path], bool]] = {}
        self.seconds = 0.0
        """Duration of a start or a reload."""
        self.rounds_otherwise = False
        """Whether it rounds in the other direction than the recording engine."""
        self.off = 0.0
        """Difference that is added to its log-probabilities."""
        self.expected: list[str] = []
        """Versions that `expect` was called with."""
        self.inspected: list[str] = []
        """Versions that `inspect` was called with."""
        self.cannot_expect = False
        self.reached = 0
        """Requests that came to it."""
        self._manifest: Manifest | None = None
        self._death = asyncio.Event()
        self._moves = asyncio.Event()
        self._moves.set()
        self.inside = 0
        """Requests inside the engine."""

    @property
    def alive(self) -> bool:
        return not self._death.is_set() and (self.loaded is not None or not self.history)

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        assert self._manifest is not None
        m = self._manifest
        domain, locates = m.domain.rule if m.domain else None, m.prompt.locate is not None
        w = super().checkpoint.watched
        return LoadedCheckpoint(m.name, m.version, m.digest, m.image, m.calibration, w, domain, m.dimensions, locates)

    def running(self) -> int:
        return self.inside

    def die(self) -> None:
        """Simulate a kill of the engine's processes, at once and in any state."""
        self._death.set()

    def answer_at_once(self) -> None:
        """Answer without latency from now on, also the requests that hang."""
        self._latency = 0
        self._moves.set()

    def hang(self) -> None:
        """Answer no request from now on."""
        self._moves.clear()

    async def start(self, checkpoint: Path | None = None, /) -> None:
        self._death.clear()
        self._moves.set()
        self.loaded = None
        await self._load("start", checkpoint)

    async def stop(self) -> None:
        if self.history and self.history[-1] != "stop":  # if there is an engine to stop
            self.history.append("stop")
        self.loaded = None
        self._death.set()

    async def kill(self) -> None:
        self.history.append("kill")
        self.die()

    async def inspect(self, checkpoint: Path, manifest: Manifest, /) -> None:
        self.inspected.append(manifest.version)
        if self.fails.get("inspect", lambda _: False)(checkpoint):
            raise CheckpointError(f"{checkpoint}: told to fail at inspect")

    async def reload(self, checkpoint: Path, _manifest: Manifest, /) -> None:
        assert self.running() == 0, "weights changed under a request"
        await self._load("reload", checkpoint)

    async def expect(self, manifest: Manifest, /) -> None:
        self.expected.append(manifest.version)
        if self.cannot_expect:
            raise ValueError("no such prompt")

    async def _load(self, call: str, checkpoint: Path | None) -> None:
        assert checkpoint is not None
        manifest = read_manifest(checkpoint)
        self.history.append(f"{call} {manifest.version}")
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await self._death.wait()
        if self._death.is_set():
            raise EngineLost()
        if self.fails.get(call, lambda _: False)(checkpoint):
            raise EngineFailed(f"told to fail at {call}")
        self.loaded, self._manifest = checkpoint, manifest

    async def log_probabilities(self, _probe: Probe, /) -> list[float]:
        assert self.loaded is not None
        off = 1.0 if self.fails.get("probe", lambda _: False)(self.loaded) else 0.0
        off -= 2 * ROUNDING if self.rounds_otherwise else 0.0
        off += self.off
        return [value + off for value in logprobs_of(self.loaded)]

    async def generate(self, question: Question) -> Generated:
        self.reached += 1
        if not self.alive:
            raise EngineLost()
        self.inside += 1
        answering = asyncio.create_task(self._answer(question))
        dying = asyncio.create_task(self._death.wait())
        try:
            await asyncio.wait({answering, dying}, return_when=asyncio.FIRST_COMPLETED)
            if dying.done():
                raise EngineLost()
            return answering.result()
        finally:
            answering.cancel()
            dying.cancel()
            await asyncio.gather(answering, dying, return_exceptions=True)
            self.inside -= 1

    async def _answer(self, question: Question) -> Generated:
        before = self.checkpoint
        await self._moves.wait()
        generated = await super().generate(question)
        assert self.checkpoint == before, "two checkpoints in one answer"
        return Generated(generated.text, generated.steps, 1, 1, before, generated.domain_scores)


def make(_settings: Settings) -> ObedientEngine:
    """For `--engine tests.service.obedient_engine:make`."""
    return ObedientEngine()
