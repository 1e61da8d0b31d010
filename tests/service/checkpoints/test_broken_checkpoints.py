"""Broken checkpoints are refused before the engine is touched, and what their copies leave."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.weights import read_tensors
from screening.errors import CheckpointError
from service.checkpoints.local_store import LocalStore
from tests.service.obedient_engine import (
    ObedientEngine,
    change_manifest,
    copies,
    copy_of,
    describe,
    digest,
    make_checkpoint,
    one_bit,
    version,
)

pytestmark = pytest.mark.anyio


def truncate(two: Path) -> None:
    weights = (two / "model.safetensors").read_bytes()
    (two / "model.safetensors").write_bytes(weights[:-9])


def truncated_but_described(two: Path) -> None:
    truncate(two)
    describe(two)


def no_weights(two: Path) -> None:
    (two / "model.safetensors").rename(two / "weights.npz")
    manifest = read_manifest(two)
    files = {"weights.npz" if n == "model.safetensors" else n: f for n, f in manifest.files.items()}
    change_manifest(two, files=files)


def pickle_among_the_files(two: Path) -> None:
    (two / "training_args.bin").write_bytes(b"\x80\x04.")
    describe(two)


def link_out_of_the_store(two: Path) -> None:
    outside = two.parent.parent / "outside.json"
    (two / "tokenizer.json").rename(outside)
    (two / "tokenizer.json").symlink_to(outside)


def rewrite(two: Path, **tensors: np.ndarray) -> None:
    shutil.rmtree(two)
    make_checkpoint(two, 2, **tensors)


def not_a_number(two: Path) -> None:
    rewrite(two, b=np.array([1, np.nan, 0, 0, 0, 0, 0, 0], np.float32))


def other_shape(two: Path) -> None:
    rewrite(two, a=np.zeros((4, 9), np.float32))


def one_tensor_more(two: Path) -> None:
    rewrite(two, c=np.zeros(3, np.float32))


def one_tensor_less(two: Path) -> None:
    save_file({"a": np.zeros((4, 8), np.float32)}, two / "model.safetensors")
    describe(two)


def one_tensor_less_than_was_published(two: Path) -> None:
    """With another tokenizer, so that the tensors are not compared with those of the served checkpoint."""
    published = read_tensors(two, read_manifest(two))
    (two / "tokenizer.json").write_text('{"other": true}')
    one_tensor_less(two)
    change_manifest(two, tensors=published)


def manifest_of_another(two: Path) -> None:
    shutil.copy(two.parent / "one" / "screening.json", two)


def no_manifest(two: Path) -> None:
    (two / "screening.json").unlink()


def no_probes(two: Path) -> None:
    change_manifest(two, probes=None)


def extra_file(two: Path) -> None:
    (two / "notes.txt").write_text("by hand")


BROKEN = {
    truncate: "bytes",
    one_bit: "sha256 differs",
    truncated_but_described: "damaged",
    no_weights: "no weights",
    pickle_among_the_files: "pickle",
    link_out_of_the_store: "points outside",
    not_a_number: "not finite",
    other_shape: r"a is F32 \[4, 9\], not F32 \[4, 8\]",
    one_tensor_more: "unknown, the first is c",
    one_tensor_less: "missing, the first is b",
    one_tensor_less_than_was_published: "other tensors than its manifest lists: 1 tensors are missing, the first is b",
    manifest_of_another: "sha256 differs",
    no_manifest: "not a checkpoint",
    no_probes: "no probes",
    extra_file: "does not list: notes.txt",
    shutil.rmtree: "not a checkpoint",
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.items(), ids=[d.__name__ for d in BROKEN])
async def test_a_broken_checkpoint_is_refused_before_the_engine_is_touched(
    damage, reason, serve, store, sample
) -> None:
    damage(store / "two")
    async with serve() as running:
        response = await running.take_up("two")
        assert response.status_code == 409 and response.json()["type"].endswith(":checkpoint-refused")
        detail = response.json()["detail"]
        assert re.search(reason, detail), detail
        assert running.engine.history == ["start 1"]
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.json()["checkpoint"]["version"] == "1"
        assert running.metric("screening_swaps_total", result="refused") == 1


async def test_the_old_checkpoint_can_go_while_it_is_served(serve, store) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        shutil.rmtree(store / "one")
        engine.fails["probe"] = version("2")
        assert (await running.take_up("two")).status_code == 409
        assert engine.history[-1] == "reload 1" and await running.version() == "1"


async def test_a_state_directory_belongs_to_one_service(serve, tmp_path) -> None:
    async with serve():
        with pytest.raises(CheckpointError, match="in use by another service"):
            LocalStore(tmp_path / "state")
    LocalStore(tmp_path / "state").close()


async def test_a_disk_that_fills_up_does_not_undo_a_swap(serve, sample, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with serve() as running:
        monkeypatch.setattr("service.checkpoints.swap_history.write_atomically", full)
        assert (await running.take_up("two")).status_code == 200
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.json()["checkpoint"]["version"] == "2"


async def test_copies_of_past_checkpoints_do_not_pile_up(serve, store, tmp_path) -> None:
    for seed in (3, 4, 5):
        make_checkpoint(store / str(seed), seed)
    async with serve() as running:
        for name in ("3", "4", "5"):
            assert (await running.take_up(name)).status_code == 200
        running.engine.fails["probe"] = version("2")
        assert (await running.take_up("two")).status_code == 409
        other_shape(store / "3")
        assert (await running.take_up("3")).status_code == 409
        assert copies(tmp_path / "state") == {digest(store / "5")}


async def test_probes_that_came_later_are_found(serve, store) -> None:
    """The digest does not cover them, so a copy that is named by the digest would still have none."""
    probes = read_manifest(store / "two").probes
    no_probes(store / "two")
    async with serve() as running:
        assert "no probes" in (await running.take_up("two")).json()["detail"]
        change_manifest(store / "two", probes=probes)
        assert (await running.take_up("two")).status_code == 200


@pytest.mark.parametrize("name", ["../outside", "/etc", ".", "", "two/../..", "a\0b"])
async def test_a_name_cannot_point_outside_the_store(name, serve) -> None:
    async with serve() as running:
        assert (await running.take_up(name)).status_code in (409, 422)
        assert running.engine.history == ["start 1"]


async def test_a_manifest_cannot_write_into_the_served_copy(serve, store, tmp_path) -> None:
    served = copy_of(store / "one", tmp_path / "state")
    bad = (store / "two").rename(store / served.name)
    (bad / "x").write_text("by hand")
    files = describe(bad).files
    change_manifest(bad, files={**files, f"../{bad.name}/x": files["x"]})
    async with serve() as running:
        before = sorted(served.iterdir())
        refused = await running.take_up(bad.name)
        assert refused.status_code == 409 and "points outside" in refused.json()["detail"]
        assert running.engine.history == ["start 1"]
        assert sorted(served.iterdir()) == before
    async with serve() as running:
        assert await running.version() == "1"
