"""Published checkpoints, a test set and evaluations of both, as the trainer leaves them; no engine has to start."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from screening.answer import Finding, Mode, compose, parse, render
from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import Decoding, ImageContract, Manifest, read_manifest, store_manifest
from screening.checkpoint.probes import Probe, Probes
from screening.checkpoint.seal import sealed
from screening.prompt import COMPACT
from screening.runtime.utc_time import utc_now_text
from screening.task import NONE, OPTIONS, Dimension
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.evaluate.identity import Identity
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedData, Evaluation, Tokens, versions
from trainer.evaluation.reliability import Reliability, summarise
from trainer.judged import Judged
from trainer.metrics import evaluate_scores
from trainer.records import Sample
from trainer.release.publish.probing import Prober
from trainer.runs.run_directory import claim

LABELS = ("A", "B", "C", "D", "N", "AC", "BD", "N", "B", "D")


def make_data(directory: Path, count: int = 200) -> Path:
    """A test set in which every dimension shows in most samples; labels go round `LABELS`."""
    dimensions, lines = list(Dimension), []
    for number in range(count):
        label, folder = LABELS[number % len(LABELS)], f"pictures/s{number}"
        (directory / folder).mkdir(parents=True)
        for name in ("original", *"abcd"):
            Image.new("RGB", (40, 36), (number % 256, 0, 0)).save(directory / folder / f"{name}.png")
        generated = [
            {
                "file": f"{folder}/{option.lower()}.png",
                "option": option,
                "usable": option in label,
                "dimensions": [] if option in label else [dimensions[(number + place) % 4]],
                "severity": 0 if option in label else 2,
            }
            for place, option in enumerate(OPTIONS)
        ]
        original = {"file": f"{folder}/original.png"}
        record = {"id": f"s{number}", "product": f"p{number}", "original": original, "generated": generated}
        lines.append(json.dumps(record | {"label": label}) + "\n")
    (directory / "samples.jsonl").write_text("".join(lines))
    return directory


def make_checkpoint(directory: Path, weights: str, *, proved: bool = True, **fields: Any) -> Manifest:
    """A complete published directory, sealed as `publish` does, without the model."""
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_text(weights)
    probe = Probe(seed=0, mode=Mode.COT, answer="x", logprobs=(-1.0,))
    probes = Probes(questions=(probe,), tolerance=0.1) if proved else None
    fields = {"name": "test", "version": weights, "prompt": COMPACT, "decoding": Decoding()} | fields
    fields |= {"image": ImageContract(size=32, tokens_per_picture=4), "probes": probes}
    manifest = sealed(write_manifest(directory, **fields))
    store_manifest(manifest, directory)
    return manifest


def loosen(directory: Path) -> None:
    """Change the tolerance of a checkpoint's probes by hand, under the old seal. The digest stays."""
    manifest = read_manifest(directory)
    assert manifest.probes is not None
    probes = manifest.probes.model_copy(update={"tolerance": 0.5})
    store_manifest(manifest.model_copy(update={"probes": probes}), directory)


def make_prober(logprob: float = -1.0) -> Prober:
    """An engine that gives every question the same log-probabilities, and every domain probe its recorded scores."""
    return Prober(lambda questions: [[logprob]] * len(questions), "this machine", lambda _domain, probe: probe.scores)


def say(options: str) -> str:
    """A chain of thought that ends in these letters."""
    findings = tuple(
        Finding(option, frozenset() if option in options else frozenset({Dimension.SHADOW}), "seen")
        for option in OPTIONS
    )
    return render(compose(frozenset(options) - {NONE}, findings), Mode.COT)


def make_evaluation(
    directory: Path,
    data: Path,
    manifest: Manifest,
    /,
    *,
    wrong: Collection[int] = (),
    texts: Mapping[int, str] | None = None,
    confidence: float = 0.9,
    **changes: Any,
) -> Path:
    """Write the result of `trainer evaluate` for a checkpoint that is right except on some samples.

    Args:
        wrong: numbers of samples answered with an unusable picture.
        texts: the answers to samples of these numbers, whatever the label.
        changes: changed values of scores.json.
    """
    samples, digest = _read(data, (data / "samples.jsonl").read_bytes())
    mode = changes.get("mode", Mode.COT)
    said = [(texts or {}).get(n) or say(_answer(sample, n, n in wrong)) for n, sample in enumerate(samples)]
    judged = [_judged(sample, n, text) for n, (sample, text) in enumerate(zip(samples, said, strict=True))]
    sure = [confidence if one.choice else 0.0 for one in judged]
    result = Evaluation(
        created=utc_now_text(),
        checkpoint=EvaluatedCheckpoint(name=manifest.name, version=manifest.version, digest=manifest.digest),
        data=EvaluatedData(digest=digest, samples=len(samples), evaluated=len(samples)),
        mode=mode,
        scores=evaluate_scores(judged),
        reliability=_reliability(tuple(sure), tuple(one.choice_correct for one in judged)),
        tokens=Tokens(prompt=1, completion=1, cut=0),
        versions=versions(),
    ).model_copy(update=changes)
    claim(directory, Identity(checkpoint=manifest.digest, data=digest, mode=mode).origin)
    (directory / "scores.json").write_text(result.model_dump_json())
    with (directory / "predictions.jsonl").open("w") as log:
        for one, text, sureness in zip(judged, said, sure, strict=True):
            counts = {"prompt_tokens": 1, "completion_tokens": 1}
            prediction = Prediction.of(one, text=text, finish="stop", confidence=sureness, **counts)
            log.write(prediction.model_dump_json() + "\n")
    return directory


@cache
def _read(data: Path, _lines: bytes) -> tuple[list[Sample], str]:
    """The samples of a directory and its digest. Most tests of a file measure on the same one."""
    samples = read_samples(data)
    return samples, data_digest(data, samples)


@cache
def _reliability(sure: tuple[float, ...], right: tuple[bool, ...]) -> Reliability | None:
    return summarise(sure, right)


def _answer(sample: Sample, number: int, wrong: bool) -> str:
    if not wrong:
        return sample.label
    unusable = [option for option in OPTIONS if option not in sample.label]
    return unusable[number // len(LABELS) % len(unusable)]


def _judged(sample: Sample, number: int, text: str) -> Judged:
    """If several options are named, the choice cycles through them."""
    read = Judged(sample, parse(text, Mode.COT))
    named = sorted(read.options or ())
    choice = None if read.options is None else named[number // len(LABELS) % len(named)] if named else NONE
    return Judged(sample, read.result, choice)
