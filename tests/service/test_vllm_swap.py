"""Swaps in the real engine: the weights change under load, and what is broken never answers."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from screening.checkpoint import Manifest, read_manifest, store_manifest, write_manifest

KEY = "a key of the operator"
WEIGHTS = "model.safetensors"


def describe(directory: Path, parent: Manifest, **changes: Any) -> Manifest:
    """Write the manifest of files that were changed, with the rest of another one."""
    fields = parent.model_dump(exclude={"files", "created", "format"}) | changes
    return write_manifest(directory, **fields)


def altered(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None], **fields: Any) -> Path:
    """A copy with other weights and a manifest that is true of them, but the probes of the source."""
    shutil.copytree(source, target)
    weights = load_file(target / WEIGHTS)
    change(weights)
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    describe(target, read_manifest(source), **fields)
    return target


def nudge(weights: dict[str, torch.Tensor]) -> None:
    """Every matrix a little different, as after some training."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * 0.02
            weights[name] = (tensor.float() + noise).to(tensor.dtype)


@pytest.fixture(scope="module")
def store(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`, the shipped checkpoint, and `two`, another one of the same architecture, published by the trainer."""
    folder = tmp_path_factory.mktemp("swap")
    other = altered(tiny_checkpoint, folder / "other", nudge, version="nudged", scores={}, probes=None)
    store = folder / "store"
    # In a process of its own: what vLLM leaves open in this one would fail other tests.
    command = [
        sys.executable,
        "-m",
        "trainer",
        "publish",
        "--checkpoint",
        str(other),
        "--store",
        str(store),
        "--tracking-uri",
        "none",
    ]
    subprocess.run(command, check=True, timeout=400)
    (published,) = store.iterdir()
    published.rename(store / "two")
    shutil.copytree(tiny_checkpoint, store / "one")
    return store


@pytest.fixture(scope="module")
def service(store: Path, launch_service: Callable[..., Any]) -> Iterator[Any]:
    with launch_service(
        "--checkpoint", str(store / "one"),
        "--checkpoint-store", str(store),
        "--admin-keys", hashlib.sha256(KEY.encode()).hexdigest(),
        "--max-concurrent", "4",
        "--max-queue", "28",
        "--answer-cache-entries", "0",  # what is asked again must come from the weights
    ) as process:  # fmt: skip
        yield process


def take_up(service: Any, name: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{service.base_url}/admin/checkpoint", json={"checkpoint": name}, headers=headers, timeout=300)


def screen(service: Any, sample: Any) -> dict[str, Any]:
    response = httpx.post(f"{service.base_url}/screen", json=sample.json(), timeout=120)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


class Callers:
    """Clients that screen without pause; what they got."""

    def __init__(self, service: Any, make_sample: Callable[[int], Any], count: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.digests: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(service, make_sample(i))) for i in range(count)]

    def _call(self, service: Any, sample: Any) -> None:
        with httpx.Client(base_url=service.base_url, timeout=120) as client:
            while not self._stop.is_set():
                response = client.post("/screen", json=sample.json())
                self.statuses[response.status_code] += 1
                self.digests[response.json().get("checkpoint", {}).get("digest", "none")] += 1

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_ten_swaps_under_load_fail_nobody_and_prove_themselves(service, store, make_sample) -> None:
    digests = {name: read_manifest(store / name).digest for name in ("one", "two")}
    with Callers(service, make_sample, 8) as callers:
        for turn in range(10):
            name = ("two", "one")[turn % 2]
            swap = take_up(service, name)
            assert swap.status_code == 200, swap.text
            assert (swap.json()["how"], swap.json()["digest"]) == ("in place", digests[name])
            assert screen(service, make_sample(99))["checkpoint"]["digest"] == digests[name]
    assert set(callers.statuses) == {200}, callers.statuses
    assert set(callers.digests) == set(digests.values())


def test_after_swaps_there_and_back_the_answers_are_the_first_ones(service, make_sample) -> None:
    samples = [make_sample(seed) for seed in range(6)]
    before = [screen(service, sample)["reasoning"] for sample in samples]
    assert take_up(service, "two").status_code == 200
    other = [screen(service, sample)["reasoning"] for sample in samples]
    assert take_up(service, "one").status_code == 200
    assert [screen(service, sample)["reasoning"] for sample in samples] == before
    assert other != before, "the two checkpoints must differ for this to show anything"


def swapped_tensors(weights: dict[str, torch.Tensor]) -> None:
    names = [name for name in weights if name.endswith("mlp.up_proj.weight")]
    weights[names[0]], weights[names[1]] = weights[names[1]].clone(), weights[names[0]].clone()


def one_wild_weight(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in weights if name.endswith("o_proj.weight"))
    bits = weights[name].view(torch.int16)
    bits[0, 0] ^= 1 << 14  # the top bit of the exponent


def part_of_a_fused_tensor_missing(weights: dict[str, torch.Tensor]) -> None:
    del weights[next(name for name in weights if name.endswith("k_proj.weight"))]


def head_missing(weights: dict[str, torch.Tensor]) -> None:
    del weights[next(name for name in weights if "lm_head" in name)]


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    weights[next(name for name in weights if name.endswith("norm.weight"))][0] = float("nan")


def other_shape(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    weights[name] = weights[name][:-8].clone()


BROKEN = {
    swapped_tensors: "log-probabilities",
    one_wild_weight: "log-probabilities|not finite",
    part_of_a_fused_tensor_missing: "missing",
    head_missing: "missing",
    not_a_number: "not finite",
    other_shape: "not BF16",
}


def test_no_broken_checkpoint_ever_answers(service, store, make_sample) -> None:
    sound = read_manifest(store / "one")
    assert take_up(service, "one").status_code == 200
    with Callers(service, make_sample, 8) as callers:
        for damage, reason in BROKEN.items():
            altered(store / "two", store / damage.__name__, damage)
            response = take_up(service, damage.__name__)
            assert response.status_code == 409, (damage.__name__, response.text)
            assert any(word in response.json()["detail"] for word in reason.split("|")), response.text
        stale = altered(store / "two", store / "other_prompt", lambda _: None)
        prompt = sound.prompt.model_copy(update={"cot": sound.prompt.cot + " Answer."})
        describe(stale, read_manifest(stale), prompt=prompt)
        assert "log-probabilities" in take_up(service, "other_prompt").json()["detail"]
    assert set(callers.statuses) == {200}, callers.statuses
    assert set(callers.digests) == {sound.digest}
    assert service.metric("screening_swaps_total") >= len(BROKEN)


def test_another_tokenizer_is_taken_up_by_a_new_engine_and_back(service, store) -> None:
    changed = altered(store / "two", store / "retold", lambda _: None)
    config = changed / "tokenizer_config.json"
    config.write_text(config.read_text().rstrip() + "\n\n")
    manifest = describe(changed, read_manifest(store / "two"))
    store_manifest(manifest, changed)
    response = take_up(service, "retold")
    assert response.status_code == 200 and response.json()["how"] == "rebuilt"
    assert take_up(service, "one").json()["how"] == "rebuilt"
