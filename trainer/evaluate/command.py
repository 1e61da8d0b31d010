"""The stage `evaluate`: answer every sample of a data directory with a checkpoint and score the answers.

verify the checkpoint → read the data → go on where an earlier run stopped → answer → score → write the result.
A directory whose evaluation is complete is scored again without starting an engine.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import NoReturn

from screening.answer import Answer, Mode, parse
from screening.checkpoint import Manifest, verify
from screening.confidence import judge
from screening.errors import ScreeningError
from trainer.evaluate.generate import Engine, Reply, answer_samples, open_engine
from trainer.evaluate.predictions import (
    EvaluationError,
    Identity,
    Prediction,
    Predictions,
    open_predictions,
    write_atomically,
)
from trainer.evaluate.report import (
    REPORT_NAME,
    SCORES_NAME,
    EvaluatedCheckpoint,
    EvaluatedData,
    Evaluation,
    Tokens,
    now,
    render,
    versions,
)
from trainer.records import DataError, Sample, data_digest, read_samples
from trainer.reliability import summarise
from trainer.scores import Judged, evaluate_scores

OpenEngine = Callable[[Path, Manifest, Mode], AbstractContextManager[Engine]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer evaluate`."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="with its screening.json")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data directory with samples.jsonl")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.COT.value, help="how to answer")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new directory, or one to go on with or to score again"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N samples (default: all)")
    parser.add_argument(
        "--batch", type=_positive, default=64, metavar="N", help="samples at once (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence-level", type=_level, default=0.95, metavar="P", help="of the intervals (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the stage from parsed arguments. Returns the exit status; what a user can mend is printed in one line."""
    # Python ends on SIGTERM without cleaning up, and the engine's processes would live on and keep their memory.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        evaluation = evaluate(
            args.checkpoint,
            args.data,
            args.out,
            mode=Mode(args.mode),
            limit=args.limit,
            batch=args.batch,
            confidence_level=args.confidence_level,
        )
    except (DataError, EvaluationError, ScreeningError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate: stopped; run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    print(render(evaluation))
    print(f"Written to {args.out}: {SCORES_NAME}, {REPORT_NAME}, predictions.jsonl")
    return 0


def evaluate(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    mode: Mode,
    limit: int | None = None,
    batch: int = 64,
    confidence_level: float = 0.95,
    open_engine: OpenEngine = open_engine,
) -> Evaluation:
    """Answer, score and write the result to `out`.

    Args:
        limit: evaluate only the first so many samples; a later run in the same `out` may ask for more.
        batch: samples handed to the engine at once; what a killed run loses at most.
        open_engine: starts what answers; vLLM unless a test brings its own.

    Raises:
        CheckpointError: the checkpoint is not whole or was changed.
        DataError: the data directory cannot be used.
        EvaluationError: `out` holds something else, or the engine failed.
    """
    manifest = verify(checkpoint)
    everything = read_samples(data)
    samples = everything[:limit]
    identity = Identity(checkpoint=manifest.digest, data=data_digest(data, everything), mode=mode)
    with open_predictions(out, identity) as predictions:
        if todo := [sample for sample in samples if sample.id not in predictions.done]:
            with open_engine(checkpoint, manifest, mode) as engine:
                _answer(engine, manifest, mode, todo, data, predictions, batch=batch, total=len(samples))
        answered = [predictions.done[sample.id] for sample in samples]
        judged = predictions.judged(samples)
        evaluation = Evaluation(
            created=now(),
            checkpoint=EvaluatedCheckpoint(name=manifest.name, version=manifest.version, digest=manifest.digest),
            data=EvaluatedData(digest=identity.data, samples=len(everything), evaluated=len(samples)),
            mode=mode,
            scores=evaluate_scores(judged, confidence_level),
            reliability=summarise([one.confidence for one in answered], [one.choice_correct for one in judged]),
            tokens=_tokens(answered),
            versions=versions(),
        )
        write_atomically(out / REPORT_NAME, render(evaluation))
        write_atomically(out / SCORES_NAME, evaluation.model_dump_json(indent=2) + "\n")
    return evaluation


def predict(sample: Sample, reply: Reply, manifest: Manifest, mode: Mode, engine: Engine) -> Prediction:
    """Read one reply as the service would."""
    result = parse(reply.text, mode)
    judgement = judge(result, reply.steps, engine.watched, manifest.calibration) if isinstance(result, Answer) else None
    return Prediction.of(
        Judged(sample, result, judgement.choice if judgement else None),
        text=reply.text,
        finish=reply.finish,
        confidence=judgement.confidence if judgement else 0.0,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


def _answer(
    engine: Engine,
    manifest: Manifest,
    mode: Mode,
    todo: Sequence[Sample],
    data: Path,
    predictions: Predictions,
    *,
    batch: int,
    total: int,
) -> None:
    """Answer what is left, with a bar on the console, and log each batch as it is done."""
    from tqdm import tqdm

    with tqdm(desc=f"answering ({mode})", total=total, initial=total - len(todo), unit="sample") as bar:
        for answered in answer_samples(engine, todo, data, size=manifest.image.size, batch=batch):
            predictions.append(predict(sample, reply, manifest, mode, engine) for sample, reply in answered)
            bar.update(len(answered))


def _stop(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _tokens(answered: Sequence[Prediction]) -> Tokens:
    return Tokens(
        prompt=fmean(one.prompt_tokens for one in answered),
        completion=fmean(one.completion_tokens for one in answered),
        cut=sum(one.finish == "length" for one in answered),
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0 < level < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1, for example 0.95")
    return level
