"""Who has to repeat the recorded numbers, and who may round otherwise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from screening.checkpoint import Manifest, read_manifest
from screening.errors import CheckpointError
from screening.probes import Probe, Probes
from service.proof import Prover
from service.scripted_engine import ScriptedEngine
from tests.service.obedient_engine import make_checkpoint

pytestmark = pytest.mark.anyio

EXACT = (-1.0, -2.0, -3.0, -4.0)
ROUNDING = 0.02
REPEATED, ROUNDED, WRONG = +ROUNDING, -ROUNDING, 0.5
"""How far an engine's numbers are from float32's; the recording one's were off by the first."""


class Rounding(ScriptedEngine):
    """Is off float32's numbers by as much as a test says."""

    off = REPEATED

    async def log_probabilities(self, probe: Probe, /) -> list[float]:
        return [value + self.off for value in probe.exact or ()]


@pytest.fixture
def engine() -> Rounding:
    return Rounding()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(make_checkpoint(tmp_path / "one", 1))


def recorded(manifest: Manifest, machine: str | None) -> Manifest:
    numbers = tuple(value + REPEATED for value in EXACT)
    probe = Probe(seed=0, mode="cot", answer="x", logprobs=numbers, exact=EXACT)
    probes = Probes(questions=(probe,), tolerance=0.01, rounding=ROUNDING, machine=machine)
    return manifest.model_copy(update={"probes": probes})


async def proves(prover: Prover, manifest: Manifest, *, built_anew: bool) -> bool:
    try:
        await prover.prove(manifest, built_anew=built_anew)
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("machine", ["elsewhere", "scripted", None])
async def test_an_engine_that_was_built_anew_may_round_otherwise(machine, engine, manifest, caplog) -> None:
    """Another vLLM, or another number of threads, on the same kind of machine may do that too."""
    prover, found = Prover(engine), []
    with caplog.at_level(logging.INFO):
        for engine.off in (REPEATED, ROUNDED, WRONG):
            found.append(await proves(prover, recorded(manifest, machine), built_anew=True))
    assert found == [True, True, False]
    assert caplog.text.count("proved by rounding") == 1


@pytest.mark.parametrize(("machine", "enough"), [("elsewhere", True), ("scripted", False), (None, False)])
async def test_weights_put_in_place_have_to_repeat_what_this_kind_recorded(machine, enough, engine, manifest) -> None:
    prover, found = Prover(engine), []
    for engine.off in (REPEATED, ROUNDED, WRONG):
        found.append(await proves(prover, recorded(manifest, machine), built_anew=False))
    assert found == [True, enough, False]


@pytest.mark.parametrize("machine", ["elsewhere", "scripted", None])
async def test_what_an_engine_built_here_repeated_is_asked_of_weights_put_in_its_place(
    machine, engine, manifest
) -> None:
    """Whatever the names say: what was seen on this machine decides."""
    prover, these = Prover(engine), recorded(manifest, machine)
    assert await proves(prover, these, built_anew=True)
    engine.off = ROUNDED
    assert not await proves(prover, these, built_anew=False)
    assert await proves(prover, these, built_anew=True), "a new engine that rounds otherwise"
    assert await proves(prover, these, built_anew=False)
    engine.off = WRONG
    assert not await proves(prover, these, built_anew=False)


async def test_a_refusal_names_both_machines(engine, manifest) -> None:
    prover, engine.off = Prover(engine), WRONG
    with pytest.raises(CheckpointError, match=r"0\.48 off; they were recorded on elsewhere, this is scripted"):
        await prover.prove(recorded(manifest, "elsewhere"), built_anew=True)
    with pytest.raises(CheckpointError, match=r"0\.48 off$"):
        await prover.prove(recorded(manifest, "scripted"), built_anew=True)
