"""A checkpoint that was changed after publishing is refused before the engine is touched, and a verdict holds only for
the manifest that was judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from screening.answer import Mode
from screening.calibration import Calibration, Curve, Shifts
from screening.checkpoint.manifest import read_manifest, write_manifest
from screening.prompt import STANDARD
from tests.service.obedient_engine import (
    ADMIN,
    ObedientEngine,
    change_manifest,
    key_of,
    make_checkpoint,
    remembered,
    version,
    with_probes,
)

pytestmark = pytest.mark.anyio

WEIGHTS = "model.safetensors"


def hash_again(two: Path) -> None:
    """The manifest is true of the files again; the probes are the old ones."""
    write_manifest(two, **read_manifest(two).model_dump(exclude={"files", "created", "format"}))


def with_weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(two: Path) -> None:
        weights = load_file(two / WEIGHTS)
        change(weights)
        save_file(weights, two / WEIGHTS)
        hash_again(two)

    return damage


def flip_a_bit(weights: dict[str, np.ndarray]) -> None:
    weights["a"].view(np.uint32)[0, 0] ^= 1


def flip_a_sign(weights: dict[str, np.ndarray]) -> None:
    weights["b"][3] *= -1


def swap_two(weights: dict[str, np.ndarray]) -> None:
    weights["a"][[0, 1]] = weights["a"][[1, 0]]


def other_file(name: str) -> Callable[[Path], None]:
    def damage(two: Path) -> None:
        (two / name).write_text('{"other": 1}')
        hash_again(two)

    return damage


def said(**changes: Any) -> Callable[[Path], None]:
    return lambda two: change_manifest(two, seal=False, **changes)


def tolerant(two: Path) -> None:
    probes = read_manifest(two).probes
    assert probes is not None
    change_manifest(two, seal=False, probes=probes.model_copy(update={"tolerance": 1.0}))


def elsewhere(two: Path) -> None:
    probes = read_manifest(two).probes
    assert probes is not None
    change_manifest(two, seal=False, probes=probes.model_copy(update={"machine": "elsewhere"}))


def unsealed(two: Path) -> None:
    probes = read_manifest(two).probes
    assert probes is not None
    change_manifest(two, seal=False, probes=probes.model_copy(update={"seal": None}))


CHANGED = {
    "one bit": with_weights(flip_a_bit),
    "one sign": with_weights(flip_a_sign),
    "two rows": with_weights(swap_two),
    "tokenizer": other_file("tokenizer.json"),
    "configuration": other_file("config.json"),
    "prompt": said(prompt=STANDARD),
    "steep": said(calibration={Mode.COT: Calibration(option=Curve(slope=50.0))}),
    "shifted": said(calibration={Mode.DIRECT: Calibration(shifts=Shifts(A=3.0))}),
    "tolerance": tolerant,
    "machine": elsewhere,
}


@pytest.mark.parametrize("what", CHANGED)
async def test_a_checkpoint_that_was_changed_after_publishing_never_reaches_the_engine(
    what, serve, store, sample
) -> None:
    CHANGED[what](store / "two")
    async with serve() as running:
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "recorded on something else" in refused.json()["detail"]
        assert "--again" in refused.json()["detail"], "what to do"
        assert running.engine.history == ["start 1"]
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.json()["checkpoint"]["version"] == "1"


async def test_a_manifest_that_was_never_sealed_is_refused(serve, store) -> None:
    unsealed(store / "two")
    async with serve() as running:
        assert "do not say what they were recorded on" in (await running.take_up("two")).json()["detail"]
        assert running.engine.history == ["start 1"]


@pytest.mark.parametrize("found", ["by its probes", "at the start of an engine"])
async def test_a_bad_copy_does_not_poison_the_intact_checkpoint(found, serve, store, tmp_path) -> None:
    engine = ObedientEngine()
    bad = shutil.copytree(store / "two", store / "bad")
    with_probes(bad, off=-1.0)
    async with serve(engine) as running:
        refused = await running.take_up("bad")
        assert refused.status_code == 409 and "log-probabilities" in refused.json()["detail"]
        assert read_manifest(bad).digest == read_manifest(store / "two").digest
        (noted,) = (await running.state())["refused"]
        assert f"{noted['digest']}@{noted['manifest']}" == key_of(bad)
        assert "refused before" in (await running.take_up("bad")).json()["detail"]
        if found == "by its probes":
            assert (await running.take_up("two")).status_code == 200
            return
    async with serve() as running:  # the refusal is remembered over a restart, and nothing else is refused
        assert "refused before" in (await running.take_up("bad")).json()["detail"]
        assert (await running.take_up("two")).status_code == 200


async def test_deaths_with_a_bad_copy_are_not_held_against_the_intact_checkpoint(serve, store) -> None:
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    bad = shutil.copytree(store / "three", store / "bad")
    change_manifest(bad, version="bad")
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["start"] = version("bad")
        assert [(await running.take_up("bad")).status_code for _ in range(2)] == [503, 409]
        assert (await running.take_up("three")).status_code == 200


async def test_a_checkpoint_that_fails_in_any_engine_is_refused_at_once_and_the_engine_stays(
    serve, store, sample
) -> None:
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["inspect"] = version("3")
        for _ in range(2):
            refused = await running.take_up("three")
            assert refused.status_code == 409 and "told to fail at inspect" in refused.json()["detail"]
            assert str(store / "three") in refused.json()["detail"], "the directory that the operator knows"
        assert engine.history == ["start 1"]
        assert running.metric("screening_engine_restarts_total", cause="swap", result="failed") == 0
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200


async def test_only_checkpoints_that_read_text_differently_are_inspected(serve, store) -> None:
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    change_manifest(shutil.copytree(store / "two", store / "four"), version="4", prompt=STANDARD)
    async with serve() as running:
        assert running.engine.inspected == ["1"], "at its start"
        for name in ("two", "four", "three"):
            assert (await running.take_up(name)).status_code == 200
        assert running.engine.inspected == ["1", "4", "3"]


async def test_a_start_inspects_checkpoints_that_were_not_served_before(serve, store) -> None:
    async with serve() as running:
        assert running.engine.inspected == ["1"]
    async with serve() as running:
        assert running.engine.inspected == []


def off_by(off: float) -> Callable[[Path], None]:
    return lambda bad: with_probes(bad, off=off)


def renamed(bad: Path) -> None:
    change_manifest(bad, version="bad")


POISON: dict[str, Callable[[Path], None]] = {
    "other probes": off_by(-1.0),
    "probes without float32's": lambda bad: with_probes(bad, off=-1.0, exact=False),
    "another version, whose weights the engine spoils": renamed,
}


@pytest.mark.parametrize("what", POISON)
async def test_no_bad_copy_speaks_for_the_good_one(what, serve, store) -> None:
    """Before and after a restart, with and without `retry`, and the good one speaks for no bad one either."""
    bad = shutil.copytree(store / "two", store / "bad")
    POISON[what](bad)
    engine = ObedientEngine()
    engine.fails["reload"] = version("bad")
    async with serve(engine) as running:
        first = await running.take_up("bad")
        assert first.status_code == 409 and "refused before" not in first.json()["detail"]
        assert "refused before" in (await running.take_up("bad")).json()["detail"]
        again = await running.client.post("/admin/checkpoint", json={"checkpoint": "bad", "retry": True}, headers=ADMIN)
        assert again.status_code == 409 and "refused before" not in again.json()["detail"]
        assert [one["manifest"] for one in (await running.state())["refused"]] == [key_of(bad).partition("@")[2]]
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200
        assert (await running.take_up("one")).status_code == 200
        assert "refused before" in (await running.take_up("bad")).json()["detail"]
        assert (await running.take_up("two")).status_code == 200


async def test_a_retry_that_succeeds_clears_the_verdict_and_its_note(serve, store, tmp_path) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["probe"] = version("2")
        assert (await running.take_up("two")).status_code == 409
        engine.fails.clear()
        order = {"checkpoint": "two", "retry": True}
        assert (await running.client.post("/admin/checkpoint", json=order, headers=ADMIN)).status_code == 200
        assert (await running.state())["refused"] == []
    assert remembered(tmp_path / "state")["refused"] == {}


async def test_a_refusal_ends_on_another_kind_of_machine(serve) -> None:
    class Upgraded(ObedientEngine):
        machine = "scripted, of another version"

    engine = ObedientEngine()
    engine.fails["probe"] = version("2")
    async with serve(engine) as running:
        assert (await running.take_up("two")).status_code == 409
    async with serve() as running:
        assert "refused before" in (await running.take_up("two")).json()["detail"]
    async with serve(Upgraded()) as running:
        assert (await running.state())["refused"] == []
        assert (await running.take_up("two")).status_code == 200


DAMAGED = ["", "{", "[]", "null", '{"served": 7}', '{"refused": {"x@y": 7}}', "\x00", "[" * 100_000]


@pytest.mark.parametrize("state", DAMAGED)
async def test_a_damaged_state_file_does_not_keep_a_service_from_starting(state, serve, tmp_path) -> None:
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200
    (tmp_path / "state" / "state.json").write_text(state)
    async with serve() as running:
        assert await running.version() == "1", "the configured one, as in a fresh directory"
        assert (await running.take_up("two")).status_code == 200
    async with serve() as running:
        assert await running.version() == "2"
