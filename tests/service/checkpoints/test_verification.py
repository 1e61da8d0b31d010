"""Which engines must repeat the recorded numbers, and which may round differently."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from screening.checkpoint.manifest import FileEntry, Manifest, read_manifest
from screening.checkpoint.probes import Probe, Probes
from screening.errors import CheckpointError
from service.admission.admission import Admission
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.startup import start_serving
from service.checkpoints.verification import MayBeRounding, Verifier
from service.config.settings import Settings
from service.engines.scripted_engine import ScriptedEngine
from service.metrics import Metrics
from tests.service.obedient_engine import (
    ObedientEngine,
    change_manifest,
    make_checkpoint,
    recorded_elsewhere,
    with_probes,
)

pytestmark = pytest.mark.anyio

EXACT = (-1.0, -2.0, -3.0, -4.0)
ROUNDING = 0.02
REPEATED, ROUNDED, WRONG = +ROUNDING, -ROUNDING, 0.5
"""How far an engine's numbers are from float32's; the recording one's were off by the first."""


class Rounding(ScriptedEngine):
    """Differs from float32's numbers by as much as a test sets."""

    off = REPEATED
    computes_in_float32 = False

    @property
    def in_float32(self) -> bool:
        return self.computes_in_float32

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


async def outcome(verifier: Verifier, manifest: Manifest, *, allow_rounding: bool) -> str:
    try:
        await verifier.verify(manifest, allow_rounding=allow_rounding)
    except MayBeRounding:
        return "open"
    except CheckpointError:
        return "refused"
    return "passed"


async def outcomes(engine: Rounding, manifest: Manifest, *, allow_rounding: bool) -> list[str]:
    found = []
    for engine.off in (REPEATED, ROUNDED, WRONG):
        found.append(await outcome(Verifier(engine), manifest, allow_rounding=allow_rounding))
    return found


async def test_a_freshly_started_engine_may_round_differently_on_another_kind_of_machine(
    engine, manifest, caplog
) -> None:
    with caplog.at_level(logging.INFO):
        found = await outcomes(engine, recorded(manifest, "elsewhere"), allow_rounding=True)
    assert found == ["passed", "passed", "refused"]
    assert caplog.text.count("verified by rounding") == 1


@pytest.mark.parametrize("machine", ["scripted", None])
@pytest.mark.parametrize("allow_rounding", [True, False])
async def test_on_the_kind_of_machine_that_recorded_an_engine_must_repeat_the_numbers(
    machine, allow_rounding, engine, manifest
) -> None:
    """Also if the recording machine is unknown: it may have been of this kind."""
    found = await outcomes(engine, recorded(manifest, machine), allow_rounding=allow_rounding)
    assert found == ["passed", "refused", "refused"]


@pytest.mark.parametrize("machine", ["elsewhere", "scripted", None])
async def test_an_engine_in_float32_must_repeat_float32s_numbers_on_every_machine(machine, engine, manifest) -> None:
    engine.computes_in_float32 = True
    for allow_rounding in (True, False):
        found = []
        for engine.off in (0.0, 0.0009, 0.0011, REPEATED, ROUNDED):
            found.append(await outcome(Verifier(engine), recorded(manifest, machine), allow_rounding=allow_rounding))
        assert found == ["passed", "passed", "refused", "refused", "refused"]


async def test_an_engine_in_float32_repeats_what_was_recorded_if_that_has_no_float32(engine, manifest) -> None:
    engine.computes_in_float32 = True
    found = await outcomes(engine, recorded(manifest, "elsewhere", exact=False), allow_rounding=True)
    assert found == ["passed", "refused", "refused"]


async def test_a_difference_in_place_that_rounding_might_explain_is_left_open(engine, manifest) -> None:
    assert await outcomes(engine, recorded(manifest, "elsewhere"), allow_rounding=False) == [
        "passed",
        "open",
        "refused",
    ]


async def test_a_checkpoint_that_passed_by_rounding_must_repeat_this_machines_numbers(engine, manifest) -> None:
    verifier, these = Verifier(engine), recorded(manifest, "elsewhere")
    engine.off = ROUNDED
    assert await outcome(verifier, these, allow_rounding=True) == "passed"
    assert verifier.passed_by_rounding(these)
    for allow_rounding in (False, True):
        for engine.off, wanted in ((ROUNDED, "passed"), (ROUNDED + 0.015, "refused"), (REPEATED, "passed")):
            assert await outcome(verifier, these, allow_rounding=allow_rounding) == wanted


async def test_passing_by_rounding_says_nothing_about_another_checkpoint_of_that_recorder(engine, manifest) -> None:
    verifier, these = Verifier(engine), recorded(manifest, "elsewhere")
    engine.off = ROUNDED
    assert await outcome(verifier, these, allow_rounding=True) == "passed"
    entry = FileEntry(size=1, sha256="0" * 64)
    other = these.model_copy(update={"files": {**these.files, "model.safetensors": entry}})
    assert not verifier.passed_by_rounding(other)
    assert await outcome(verifier, other, allow_rounding=False) == "open"


async def test_without_float32_numbers_an_engine_must_repeat_the_recorded_ones(engine, manifest) -> None:
    these = recorded(manifest, "elsewhere", exact=False)
    for allow_rounding in (True, False):
        assert await outcomes(engine, these, allow_rounding=allow_rounding) == ["passed", "refused", "refused"]


async def test_a_refusal_names_both_machines(engine, manifest) -> None:
    verifier, engine.off = Verifier(engine), WRONG
    with pytest.raises(CheckpointError, match=r"0\.48; recorded by elsewhere, here scripted"):
        await verifier.verify(recorded(manifest, "elsewhere"), allow_rounding=True)
    with pytest.raises(CheckpointError, match=r"0\.48$"):
        await verifier.verify(recorded(manifest, "scripted"), allow_rounding=False)


@pytest.mark.parametrize("machine", ["scripted", "elsewhere", None])
async def test_the_error_of_a_freshly_started_engine_says_what_to_do(machine, engine, manifest) -> None:
    """Also if another machine with the same name recorded the probes: nothing else distinguishes the two."""
    verifier, engine.off = Verifier(engine), WRONG
    with pytest.raises(CheckpointError, match=r"0\.48.*`python -m trainer publish --again`$"):
        await verifier.verify(recorded(manifest, machine), allow_rounding=True)


async def test_probes_of_another_kind_of_machine_need_one_restart_and_then_swap_in_place(
    serve,
) -> None:
    engine = ObedientEngine()
    engine.rounds_otherwise = True
    async with serve(engine) as running:
        for name, how in (("two", "restarted"), ("one", "in_place"), ("two", "in_place")):
            swap = await running.take_up(name)
            assert (swap.status_code, swap.json()["how"]) == (200, how)
        assert engine.history == ["start 1", "reload 2", "stop", "start 2", "reload 1", "reload 2"]


async def test_a_swap_back_that_does_not_repeat_what_this_machine_gave_is_refused(serve) -> None:
    engine = ObedientEngine()
    engine.rounds_otherwise = True
    async with serve(engine) as running:
        assert (await running.take_up("two")).json()["how"] == "restarted"
        engine.off = 0.015  # as with one stale tensor: still near to float32
        refused = await running.take_up("one")
        assert refused.status_code == 409 and "This machine gave other numbers" in refused.json()["detail"]


async def test_on_the_recording_kind_of_machine_weights_that_round_otherwise_are_never_served(
    serve, store, tmp_path
) -> None:
    engine = ObedientEngine()
    for name in ("one", "two"):
        probes = read_manifest(store / name).probes
        assert probes is not None
        change_manifest(store / name, probes=probes.model_copy(update={"machine": engine.machine}))
    async with serve(engine) as running:
        engine.rounds_otherwise = True
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "log-probabilities" in refused.json()["detail"]
        engine.rounds_otherwise = False
    with pytest.raises(CheckpointError, match="log-probabilities"):
        await start_again(store, tmp_path / "state")


async def start_again(store: Path, state: Path) -> None:
    """Start a service whose machine now rounds differently, as after a restart."""
    engine, metrics = ObedientEngine(), Metrics()
    engine.rounds_otherwise = True
    admission = Admission(max_concurrent=1, max_queue=1, metrics=metrics)
    settings = Settings(engine="vllm", checkpoint=store / "one", state_dir=state)
    served = ServedCheckpoint(engine, admission, metrics, settings, store / "one")
    try:
        await start_serving(served)
    finally:
        served.store.close()


async def test_weights_that_fail_in_a_fresh_engine_too_are_refused_and_the_old_ones_are_back(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.rounds_otherwise = True
        engine.fails["probe"] = lambda _: engine.history[-1] == "start 2"
        swap = await running.take_up("two")
        assert swap.status_code == 409 and "log-probabilities" in swap.json()["detail"]
        assert [call for call in engine.history if call != "stop"] == ["start 1", "reload 2", "start 2", "start 1"]
        assert await running.version() == "1"


async def test_new_probes_that_pass_by_rounding_do_not_replace_repeated_ones(serve, store) -> None:
    async with serve() as running:
        recorded_elsewhere(store / "one")
        swap = await running.take_up("one")
        assert swap.status_code == 409 and "log-probabilities" in swap.json()["detail"]


async def test_new_probes_that_pass_by_rounding_replace_others_that_do(serve, store) -> None:
    engine = ObedientEngine()
    engine.rounds_otherwise = True
    async with serve(engine) as running:
        with_probes(store / "one", off=0.005)
        swap = await running.take_up("one")
        assert swap.status_code == 200
        assert running.app.state.service.served.manifest.probes == read_manifest(store / "one").probes
