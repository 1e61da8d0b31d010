"""Who has to repeat the recorded numbers, and who may round otherwise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from screening.checkpoint import Manifest, read_manifest
from screening.errors import CheckpointError
from screening.probes import Probe, Probes
from service.proof import NotRepeated, Prover
from service.scripted_engine import ScriptedEngine
from tests.service.obedient_engine import ObedientEngine, make_checkpoint, recorded_elsewhere, with_probes

pytestmark = pytest.mark.anyio

EXACT = (-1.0, -2.0, -3.0, -4.0)
ROUNDING = 0.02
REPEATED, ROUNDED, WRONG = +ROUNDING, -ROUNDING, 0.5
"""How far an engine's numbers are from float32's; the recording one's were off by the first."""


class Rounding(ScriptedEngine):
    """Is off float32's numbers by as much as a test says."""

    off = REPEATED

    async def log_probabilities(self, _probe: Probe, /) -> list[float]:
        return [value + self.off for value in EXACT]


@pytest.fixture
def engine() -> Rounding:
    return Rounding()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(make_checkpoint(tmp_path / "one", 1))


def recorded(manifest: Manifest, machine: str | None, *, exact: bool = True) -> Manifest:
    numbers = tuple(value + REPEATED for value in EXACT)
    probe = Probe(seed=0, mode="cot", answer="x", logprobs=numbers, exact=EXACT if exact else None)
    probes = Probes(questions=(probe,), tolerance=0.01, machine=machine)
    return manifest.model_copy(update={"probes": probes})


async def outcome(prover: Prover, manifest: Manifest, *, may_round: bool) -> str:
    try:
        await prover.prove(manifest, may_round=may_round)
    except NotRepeated:
        return "open"
    except CheckpointError:
        return "refused"
    return "proved"


async def outcomes(engine: Rounding, manifest: Manifest, *, may_round: bool) -> list[str]:
    found = []
    for engine.off in (REPEATED, ROUNDED, WRONG):
        found.append(await outcome(Prover(engine), manifest, may_round=may_round))
    return found


@pytest.mark.parametrize("machine", ["elsewhere", "scripted", None])
async def test_an_engine_that_was_built_anew_may_round_otherwise(machine, engine, manifest, caplog) -> None:
    """Another vLLM, or another number of threads, on the same kind of machine may do that too."""
    with caplog.at_level(logging.INFO):
        found = await outcomes(engine, recorded(manifest, machine), may_round=True)
    assert found == ["proved", "proved", "refused"]
    assert caplog.text.count("proved by rounding") == 1


@pytest.mark.parametrize("machine", ["elsewhere", "scripted", None])
async def test_what_rounding_might_explain_in_place_is_left_open(machine, engine, manifest) -> None:
    assert await outcomes(engine, recorded(manifest, machine), may_round=False) == ["proved", "open", "refused"]


async def test_where_an_engine_built_anew_did_not_repeat_nothing_in_its_place_has_to(engine, manifest) -> None:
    prover = Prover(engine)
    engine.off = ROUNDED
    assert await outcome(prover, recorded(manifest, "elsewhere"), may_round=True) == "proved"
    assert await outcome(prover, recorded(manifest, "elsewhere"), may_round=False) == "proved"
    assert await outcome(prover, recorded(manifest, "scripted"), may_round=False) == "open", "another recorder"
    engine.off = WRONG
    assert await outcome(prover, recorded(manifest, "elsewhere"), may_round=False) == "refused"


async def test_once_it_was_repeated_it_has_to_be_repeated_again(engine, manifest) -> None:
    prover, these = Prover(engine), recorded(manifest, "elsewhere")
    for engine.off in (ROUNDED, REPEATED):
        assert await outcome(prover, these, may_round=True) == "proved"
    engine.off = ROUNDED
    assert await outcome(prover, these, may_round=False) == "open"


async def test_without_float32s_numbers_only_repeating_proves(engine, manifest) -> None:
    these = recorded(manifest, "elsewhere", exact=False)
    for may_round in (True, False):
        assert await outcomes(engine, these, may_round=may_round) == ["proved", "refused", "refused"]


async def test_a_refusal_names_both_machines(engine, manifest) -> None:
    prover, engine.off = Prover(engine), WRONG
    with pytest.raises(CheckpointError, match=r"0\.48 off; recorded by elsewhere, here scripted"):
        await prover.prove(recorded(manifest, "elsewhere"), may_round=True)
    with pytest.raises(CheckpointError, match=r"0\.48 off$"):
        await prover.prove(recorded(manifest, "scripted"), may_round=True)


async def test_a_service_starts_on_what_another_kind_of_machine_recorded_and_swaps_in_place(serve) -> None:
    """Both by the same recorder: the start shows that it cannot be repeated here."""
    engine = ObedientEngine()
    engine.rounds_otherwise = True
    async with serve(engine) as running:
        for name in ("two", "one"):
            swap = await running.take_up(name)
            assert (swap.status_code, swap.json()["how"]) == (200, "in place")
        assert engine.history == ["start 1", "reload 2", "reload 1"]


async def test_what_is_not_repeated_in_place_is_settled_by_a_new_engine_and_then_known(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.rounds_otherwise = True  # as when only what it started on was recorded on its own kind
        swap = await running.take_up("two")
        assert (swap.status_code, swap.json()["how"]) == (200, "rebuilt")
        assert engine.history == ["start 1", "reload 2", "stop", "start 2"]
        assert (await running.take_up("one")).json()["how"] == "in place"


async def test_what_a_new_engine_does_not_prove_either_is_refused_and_the_old_is_back(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.rounds_otherwise = True
        engine.fails["probe"] = lambda _: engine.history[-1] == "start 2"
        swap = await running.take_up("two")
        assert swap.status_code == 409 and "log-probabilities" in swap.json()["detail"]
        assert [call for call in engine.history if call != "stop"] == ["start 1", "reload 2", "start 2", "start 1"]
        assert await running.version() == "1"


async def test_new_probes_that_only_round_do_not_take_the_place_of_those_that_repeat(serve, store) -> None:
    async with serve() as running:
        recorded_elsewhere(store / "one")
        swap = await running.take_up("one")
        assert swap.status_code == 409 and "do not prove it" in swap.json()["detail"]


async def test_new_probes_that_only_round_take_the_place_of_those_that_do_no_better(serve, store) -> None:
    engine = ObedientEngine()
    engine.rounds_otherwise = True
    async with serve(engine) as running:
        with_probes(store / "one", off=0.005)
        swap = await running.take_up("one")
        assert (swap.status_code, swap.json()["how"]) == (200, "unchanged")
