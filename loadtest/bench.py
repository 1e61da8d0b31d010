"""Closed-loop measurement: a fixed number of callers, each sending its next request when the last is answered.

It shows capacity, not what users wait under a given arrival rate: callers that wait send less.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from screening_client import AsyncClient, Screening

EXAMPLES = Path(__file__).resolve().parent.parent / "clients" / "python" / "examples" / "products"
NAMES = ("original", "a", "b", "c", "d")


@dataclass(frozen=True, slots=True)
class Level:
    """Figures at one number of callers; milliseconds."""

    clients: int
    requests: int
    per_second: float
    p50: float
    p95: float
    engine_p50: float
    decode_p50: float


async def measure(base_url: str, args: argparse.Namespace) -> None:
    """Run all levels after a warm-up, print a table with ratios to the first level."""
    pictures = distinct_pictures(args.picture_size)
    async with AsyncClient(base_url=base_url, max_retries=0, timeout=300) as client:
        await _run(client, pictures, min(args.clients), 8, "warm-up")
        levels = [await _run(client, pictures, n, args.requests, f"{n} clients") for n in args.clients]
    print(table(levels))
    if args.out:
        args.out.write_text(json.dumps([asdict(level) for level in levels], indent=1) + "\n")


def distinct_pictures(size: int) -> Iterator[list[bytes]]:
    """Endless questions of five JPEGs that no cache has seen: a speck of noise makes every file and picture new."""
    rng = np.random.default_rng(0)
    folders = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
    sources = [
        [Image.open(folder / f"{name}.jpg").convert("RGB").resize((size, size)) for name in NAMES] for folder in folders
    ]
    while True:
        for source in sources:
            question = []
            for picture in source:
                pixels = np.asarray(picture).copy()
                pixels[:8, :8] = rng.integers(0, 256, (8, 8, 3))
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
                question.append(buffer.getvalue())
            yield question


async def _run(client: AsyncClient, pictures: Iterator[list[bytes]], clients: int, requests: int, name: str) -> Level:
    questions = [next(pictures) for _ in range(requests)]  # encoded before the clock starts
    latencies: list[float] = []
    answers: list[Screening] = []

    async def caller(bar: tqdm[None]) -> None:
        while questions:
            original, *generated = questions.pop()
            began = time.perf_counter()
            answers.append(await client.screen(original=original, generated=generated))
            latencies.append(1000 * (time.perf_counter() - began))
            bar.update()

    began = time.perf_counter()
    with tqdm(total=requests, desc=name, unit="request", leave=False) as bar:
        await asyncio.gather(*(caller(bar) for _ in range(clients)))
    seconds = time.perf_counter() - began
    return Level(
        clients,
        requests,
        requests / seconds,
        statistics.median(latencies),
        float(np.percentile(latencies, 95)),
        statistics.median(answer.timings.engine_ms for answer in answers),
        statistics.median(answer.timings.decode_ms for answer in answers),
    )


def table(levels: list[Level]) -> str:
    """The figures, and throughput as a multiple of the first row's."""
    lines = ["clients  requests/s  ratio   p50 ms   p95 ms  engine p50  decode p50"]
    lines += [
        f"{level.clients:>7}  {level.per_second:>10.2f}  {level.per_second / levels[0].per_second:>5.2f}  "
        f"{level.p50:>7.0f}  {level.p95:>7.0f}  {level.engine_p50:>10.0f}  {level.decode_p50:>10.1f}"
        for level in levels
    ]
    return "\n".join(lines)
