"""`python -m loadtest catalogue`: `trainer screen-dataset` on Ray, compared with `screening-client batch` on a service.

Both answer the same rendered questions in turns, with one engine each on this machine. A last run of `screen-dataset`
has a worker killed with kill -9, then the command itself, and is started again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.commands import options
from loadtest.console import REPOSITORY, say
from loadtest.load.rendered import add_arguments as add_rendered
from loadtest.load.rendered import rendered
from loadtest.results.summary import Verdict, as_json, at_least, exit_code, none_of, reported
from loadtest.targets.processes import kill, tree
from screening.errors import UserError
from screening.runtime.argument_types import positive
from screening.runtime.atomic_write import write_atomically

_ACTOR = "MapWorker"
"""Part of the title of the process in which a worker of Ray Data runs."""
_CHECK_SECONDS = 0.1


class RunFailed(UserError):
    """One of the two programs failed; the message has the end of its log."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One program with the questions of one round."""

    per_second: float
    """Answers per second. That of `screen-dataset` is taken after its first block, so that no start counts."""
    seconds: float
    """Duration of the whole command; that of `screen-dataset` includes the start of Ray and of the engine."""
    choices: dict[str, str | None]
    """Choice by id of the question."""


@dataclass(frozen=True, slots=True)
class Round:
    """Both programs with the same questions."""

    batch: Turn
    catalogue: Turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=positive, default=2000, metavar="N", help="number of questions (default: 2000)")
    parser.add_argument(
        "--rounds", type=positive, default=2, metavar="N", help="turns of each program, with a share of the questions "
        "each (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--clients", type=positive, default=32, metavar="N", help="concurrent requests to the service (default: 32)"
    )
    parser.add_argument("--batch", type=positive, default=128, metavar="N", help="records of a block (default: 128)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON (default: none)")
    add_rendered(parser)
    options.add_service(parser)


def run(args: argparse.Namespace) -> int:
    """Measure both programs, kill one of them, and print the figures."""
    if args.count < 4 * args.batch or args.count // args.rounds <= args.batch:
        raise UserError("each round needs more than one block, and the killed run four: raise --count or lower --batch")
    lines = _lines(rendered(args, args.count))[: args.count]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rounds = [
            _round(args, lines[number :: args.rounds], folder / f"round-{number}", catalogue_first=number % 2 == 0)
            for number in range(args.rounds)
        ]
        answered = _killed_run(args, _write(folder / "all.jsonl", lines), folder / "killed")
    verdicts = _verdicts(args, rounds, answered)
    print(_table(rounds), *verdicts, sep="\n")
    if args.out:
        write_atomically(args.out, json.dumps(as_json({"rounds": rounds, "verdicts": verdicts}), indent=1) + "\n")
    return exit_code(verdicts)


def _lines(directory: Path) -> list[str]:
    """The rendered questions as lines of `screening-client batch`."""
    lines = []
    for line in (directory / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        files = [sample["original"]["file"], *(picture["file"] for picture in sample["generated"])]
        original, *generated = (str((directory / file).absolute()) for file in files)
        lines.append(json.dumps({"id": sample["id"], "original": original, "generated": generated}))
    return lines


def _write(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _round(args: argparse.Namespace, lines: Sequence[str], folder: Path, *, catalogue_first: bool) -> Round:
    questions = _write(folder / "questions.jsonl", lines)
    catalogue = _catalogue_turn(args, questions, folder / "out") if catalogue_first else None
    batch = _batch_turn(args, questions, folder)
    return Round(batch, catalogue or _catalogue_turn(args, questions, folder / "out"))


def _batch_turn(args: argparse.Namespace, questions: Path, folder: Path) -> Turn:
    say(f"screening-client batch, {args.clients} callers …")
    words = ["--checkpoint", str(args.checkpoint), *options.service_options(args)]
    results = folder / "results.jsonl"
    with options.own_service(args, words, folder / "service.log") as service:
        began = time.monotonic()
        concurrency = ["--concurrency", args.clients, "--base-url", service.url]
        _run(["screening_client", "batch", questions, "--out", results, *concurrency])
        seconds = time.monotonic() - began
    answers = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return Turn(len(answers) / seconds, seconds, {one["id"]: one["screening"]["choice"] for one in answers})


def _catalogue_turn(args: argparse.Namespace, questions: Path, out: Path) -> Turn:
    say("screen-dataset with one Ray worker …")
    began = time.monotonic()
    _run(_catalogue(args, questions, out))
    seconds = time.monotonic() - began
    # A part is written when its block is finished.
    written = sorted((path.stat().st_mtime, path) for path in _parts(out))
    later = sum(len(_rows(path)) for _, path in written[1:])
    choices = {row["id"]: row["choice"] for _, path in written for row in _rows(path)}
    return Turn(later / (written[-1][0] - written[0][0]), seconds, choices)


def _killed_run(args: argparse.Namespace, questions: Path, out: Path) -> Counter[str]:
    """Kill a worker after a quarter of the blocks and the command after half of them, and start it again.

    Returns:
        The number of answers of each id.
    """
    blocks = -(-args.count // args.batch)
    with _started(_catalogue(args, questions, out)) as process:
        _wait_for_parts(process, out, blocks // 4)
        victims = [one for one in tree(process.pid)[1:] if _ACTOR in " ".join(one.cmdline())]
        say(f"kill -9 of worker {victims[0].pid} after {len(_parts(out))} of {blocks} blocks")
        kill(victims[0])
        _wait_for_parts(process, out, blocks // 2)
        say(f"kill -9 of the command after {len(_parts(out))} of {blocks} blocks")
    say("started again …")
    _run(_catalogue(args, questions, out))
    return Counter(row["id"] for path in _parts(out) for row in _rows(path))


def _catalogue(args: argparse.Namespace, questions: Path, out: Path) -> list[object]:
    words = ["--checkpoint", args.checkpoint, "--data", questions, "--out", out, "--batch", args.batch, "--workers", 1]
    return ["trainer", "screen-dataset", *words]


def _parts(out: Path) -> list[Path]:
    return list((out / "answers").glob("*.parquet"))


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(path).read(["id", "choice"]).to_pylist()
    return rows


def _run(words: Sequence[object]) -> None:
    """Run a module of ours with arguments.

    Raises:
        RunFailed: the program reports an error. An unreadable answer (exit status 4 of the client) is not an error.
    """
    done = subprocess.run(  # noqa: S603 - our own programs
        _command(words), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 4):
        raise RunFailed(f"{words[0]} {words[1]} ended with exit status {done.returncode}.\n{done.stderr[-2000:]}")


@contextmanager
def _started(command: Sequence[object]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and kill it with kill -9 at the end of the block."""
    process = subprocess.Popen(  # noqa: S603 - our own programs
        _command(command), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _command(words: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


def _wait_for_parts(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    while len(_parts(out)) < count:
        if process.poll() is not None:
            raise RunFailed(f"screen-dataset ended with exit status {process.returncode} before its end")
        time.sleep(_CHECK_SECONDS)


def _verdicts(args: argparse.Namespace, rounds: Sequence[Round], answered: Counter[str]) -> list[Verdict]:
    ratio = sum(one.catalogue.per_second for one in rounds) / sum(one.batch.per_second for one in rounds)
    pairs = [(choice, one.catalogue.choices.get(each)) for one in rounds for each, choice in one.batch.choices.items()]
    equal = sum(first == second for first, second in pairs)
    return [
        none_of(
            "records without exactly one answer after two kills", args.count - sum(n == 1 for n in answered.values())
        ),
        at_least("throughput, screen-dataset / service", 1.0, ratio),
        reported("equal choices", f"{equal} of {len(pairs)}"),
        reported(
            "whole duration, screen-dataset with its start / batch",
            f"{sum(one.catalogue.seconds for one in rounds) / sum(one.batch.seconds for one in rounds):.3f}",
        ),
    ]


def _table(rounds: Sequence[Round]) -> str:
    lines = ["round   batch/s   screen-dataset/s   ratio   batch s   screen-dataset s (with its start)"]
    for number, one in enumerate(rounds, 1):
        batch, catalogue = one.batch, one.catalogue
        lines.append(
            f"{number:>5}   {batch.per_second:>7.2f}   {catalogue.per_second:>16.2f}   "
            f"{catalogue.per_second / batch.per_second:>5.2f}   {batch.seconds:>7.1f}   {catalogue.seconds:>16.1f}"
        )
    return "\n".join(lines)
