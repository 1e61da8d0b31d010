"""A service on the real engine that swaps checkpoints: its store, its callers, its orders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch

from tests.service.damage import Weights, rewrite
from tests.service.obedient_engine import ADMIN


def publish_another(checkpoint: Path, folder: Path) -> Path:
    """A store with `one`, this checkpoint, and `two`, the same with other weights, published by the trainer."""
    store, other = folder / "store", folder / "other"
    shutil.copytree(checkpoint, other)
    # Its domain describes the features of the old weights, so the other checkpoint has none.
    rewrite(other, _nudge, version="nudged", scores={}, probes=None, domain=None)
    # In a subprocess: files that vLLM leaves open in this process would make other tests fail.
    command = [sys.executable, "-m", "trainer", "publish", "--checkpoint", str(other), "--store", str(store)]
    command += ["--tracking-uri", "none"]
    subprocess.run(command, check=True, timeout=900)
    (published,) = store.iterdir()
    published.rename(store / "two")
    shutil.copytree(checkpoint, store / "one")
    return store


def _nudge(weights: Weights) -> None:
    """Every matrix different by so much that answers differ as well."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * 0.1
            weights[name] = (tensor.float() + noise).to(tensor.dtype)


def take_up(service: Any, name: str) -> httpx.Response:
    """Ask for a checkpoint of the store."""
    order = {"checkpoint": name}
    return httpx.post(f"{service.base_url}/admin/checkpoint", json=order, headers=ADMIN, timeout=900)


def screen(service: Any, sample: Any) -> dict[str, Any]:
    """One answer."""
    response = httpx.post(f"{service.base_url}/screen", json=sample.json(), timeout=120)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


class Callers:
    """Clients that screen; what they got."""

    def __init__(self, service: Any, make_sample: Callable[[int], Any], count: int, pause: float = 0.0) -> None:
        """
        Args:
            pause: time in seconds between an answer and the next request of a client.
        """
        self._pause = pause
        self.statuses: Counter[int] = Counter()
        self.digests: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(service, make_sample(i))) for i in range(count)]

    def _call(self, service: Any, sample: Any) -> None:
        with httpx.Client(base_url=service.base_url, timeout=120) as client:
            while not self._stop.is_set():
                response = client.post("/screen", json=sample.json())
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    self.digests[response.json()["checkpoint"]["digest"]] += 1
                    self._stop.wait(self._pause)
                else:
                    self._stop.wait(0.2)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
