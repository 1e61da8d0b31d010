"""A deterministic engine without a model, for tests and for trying the service on a laptop. It does not judge pictures.

Its verdicts follow from a hash of the pixels. `compose` and `render` of the answer grammar write its text, and the
parser of the model's answers reads it. Every answer says `"engine": "scripted"`. A picture whose middle is magenta is
out of its domain, so that the warnings can be tried as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from PIL import Image

from screening.answer import Finding, Mode, compose, render, with_boxes
from screening.boxes import Box
from screening.checkpoint.domain import DomainRule
from screening.checkpoint.manifest import ImageContract, Manifest
from screening.checkpoint.probes import Probe
from screening.inference.generation import Step, Watched
from screening.task import NONE, NORMAL, OPTIONS, Dimension
from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.errors import EngineFailed, EngineLost

IMAGE_SIZE = 112

_WATCHED = Watched({letter: 1 + index for index, letter in enumerate((*OPTIONS, NONE))}, frozenset({6}))
_NORMAL_ID = 6
_FIRST_FREE_ID = 7
_SURE = math.log(0.99)
ISSUE_BOX = Box(0.25, 0.5, 0.75, 0.6)
"""The box of every issue, on the padded picture."""
_USABLE_SHARE = 0.35
"""Share of the pictures that are usable."""

_CHECKPOINT = LoadedCheckpoint(
    name="scripted",
    version="1",
    digest="sha256:" + hashlib.sha256(b"scripted engine, version 1").hexdigest(),
    image=ImageContract(size=IMAGE_SIZE, tokens_per_picture=16),
    calibration={},
    watched=_WATCHED,
    domain=DomainRule(trained_on="pictures whose middle is not magenta", confidence_cap=0.35),
    locates=True,
)

Failure = Literal["none", "unreadable", "error", "dead", "start"]


class ScriptedEngine:
    """Answers after `latency_ms` on average: 0.5 to 1.5 times that, by a hash of the question."""

    def __init__(self, *, latency_ms: float = 20.0, start_ms: float = 0.0, failure: Failure = "none") -> None:
        self._latency = latency_ms / 1000
        self._start = start_ms / 1000
        self._failure = failure
        self._running = 0
        self._alive = True
        self._progress = 0

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def loads_checkpoints(self) -> bool:
        return False

    @property
    def machine(self) -> str:
        return "scripted"

    @property
    def in_float32(self) -> bool:
        return False

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        return _CHECKPOINT

    @property
    def alive(self) -> bool:
        return self._alive

    def running(self) -> int:
        return self._running

    @property
    def progress(self) -> int:
        return self._progress

    async def start(self, _checkpoint: Path | None = None, /) -> None:
        await asyncio.sleep(self._start)
        if self._failure == "start":
            raise RuntimeError("The scripted engine was told to fail at its start.")

    async def stop(self) -> None:
        return None

    async def kill(self) -> None:
        self._alive = False

    async def inspect(self, _checkpoint: Path, _manifest: Manifest, /) -> None:
        return None

    async def reload(self, _checkpoint: Path, _manifest: Manifest, /) -> None:
        raise EngineFailed("The scripted engine has no weights.")

    async def expect(self, _manifest: Manifest, /) -> None:
        return None

    async def log_probabilities(self, _probe: Probe, /) -> list[float]:
        raise EngineFailed("The scripted engine has no weights.")

    async def domain_scores(self, pictures: Sequence[Image.Image], /) -> tuple[float, ...] | None:
        return tuple(map(domain_score, pictures))

    async def generate(self, question: Question) -> Generated:
        if not self._alive:
            raise EngineLost()
        digests = _digests(question)
        self._running += 1
        try:
            await asyncio.sleep(self._latency * (0.5 + digests[0][0] / 255))
        finally:
            self._running -= 1
        self._progress += 1
        if self._failure == "dead":
            self._alive = False
            raise EngineLost()
        if self._failure == "error":
            raise EngineFailed("The scripted engine was told to fail.")
        checkpoint = self.checkpoint
        steps = tuple(_steps(digests[1:], question, checkpoint.dimensions))
        text = "".join(step.piece for step in steps)
        if self._failure == "unreadable":
            text = text[: len(text) // 2] if question.mode is Mode.COT else "?"
        return Generated(
            text,
            steps,
            prompt_tokens=128,
            completion_tokens=len(steps),
            checkpoint=checkpoint,
            domain_scores=await self.domain_scores(question.pictures),
        )


def domain_score(picture: Image.Image) -> float:
    """Return 2 for a picture whose middle is magenta, and less than 1 for any other."""
    red, green, blue = picture.crop((48, 48, 64, 64)).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    return 2.0 if min(red, blue) > 240 and green < 16 else (red + green + blue) / 1000


def _digests(question: Question) -> list[bytes]:
    """Return a digest of the whole question, then one of each generated picture together with the original."""
    original, *generated = (picture.tobytes() for picture in question.pictures)
    each = [hashlib.sha256(original + picture).digest() for picture in generated]
    return [hashlib.sha256(b"".join(each)).digest(), *each]


def _steps(digests: list[bytes], question: Question, dimensions: Sequence[Dimension]) -> Iterator[Step]:
    """Yield the text in pieces, with log-probabilities as a model would give them."""
    usable = {option: _usable(digest) for option, digest in zip(OPTIONS, digests, strict=True)}
    findings = tuple(_finding(option, digest, dimensions) for option, digest in zip(OPTIONS, digests, strict=True))
    options = frozenset(option for option in OPTIONS if usable[option] >= 0.5)
    answer = compose(options, findings)
    if question.locate:
        boxes = {one.option: [ISSUE_BOX] * len(one.dimensions or ()) for one in findings}
        answer = replace(answer, reasoning=with_boxes(answer.reasoning or "", boxes))
    text = render(answer, question.mode)
    marker: str | None = None
    in_answer = question.mode is Mode.DIRECT
    for piece in re.findall(r"</?\w+>|[ABCDN](?=[ABCD]*(?:</answer>|$))|\s?\w+|\W", text):
        if re.fullmatch("<[A-D]>", piece):
            marker = piece[1]
        elif marker is not None:
            yield Step(piece, *_verdict(piece, usable[marker]))
            marker = None
            continue
        in_answer = piece == "<answer>" or (in_answer and piece != "</answer>")
        yield Step(piece, *(_letter(piece, usable) if in_answer and piece != "<answer>" else _other(piece)))


def _usable(digest: bytes) -> float:
    """Return the probability of being usable, in (0, 1): at least 0.5 for `_USABLE_SHARE` of all pictures."""
    draw = (digest[1] + 0.5) / 256
    return 1 - 0.5 * draw / _USABLE_SHARE if draw < _USABLE_SHARE else 0.49 * (1 - draw) / (1 - _USABLE_SHARE)


def _finding(option: str, digest: bytes, dimensions: Sequence[Dimension]) -> Finding:
    if _usable(digest) >= 0.5:
        return Finding(option, frozenset(), "the product is unchanged")
    dimension = dimensions[digest[2] % len(dimensions)]
    return Finding(option, frozenset({dimension}), dimension.meaning)


def _verdict(piece: str, usable: float) -> tuple[int, dict[int, float]]:
    if piece.strip() == NORMAL:
        return _NORMAL_ID, {_NORMAL_ID: math.log(usable)}
    return _token_id(piece), {_NORMAL_ID: math.log(usable), _token_id(piece): math.log(1 - usable)}


def _letter(letter: str, usable: dict[str, float]) -> tuple[int, dict[int, float]]:
    values = {_WATCHED.letters[option]: math.log(usable[option]) for option in OPTIONS}
    values[_WATCHED.letters[NONE]] = math.log(math.prod(1 - value for value in usable.values()))
    return _WATCHED.letters[letter], values


def _other(piece: str) -> tuple[int, dict[int, float]]:
    token_id = _token_id(piece)
    return token_id, {token_id: _SURE}


def _token_id(piece: str) -> int:
    return _FIRST_FREE_ID + zlib.crc32(piece.encode()) % 10_000
