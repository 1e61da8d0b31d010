"""Evaluates a checkpoint with the engine that serves it.

It verifies the checkpoint, answers the samples that the directory has no answer for, scores all answers and writes the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from screening.answer import Answer, Mode, on_pictures, parse
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from screening.confidence import Source, decide
from trainer.data.split.divide import is_test_set
from trainer.data_directory import data_digest, read_frame, read_samples
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.generate import OfflineEngine, Reply, answer_samples, open_engine
from trainer.evaluation.evaluate.identity import Identity
from trainer.evaluation.evaluate.predictions import Prediction, Predictions, open_predictions
from trainer.evaluation.evaluate.report import write_result
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, Evaluation, conclude, read_evaluation
from trainer.judged import Judged
from trainer.metrics import METRICS, Metric
from trainer.records import Sample

OpenEngine = Callable[..., AbstractContextManager[OfflineEngine]]
"""Opens an engine, given the checkpoint's directory, its manifest and the mode, and `locate=True` to ask for boxes."""


def evaluate(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    mode: Mode,
    limit: int | None = None,
    batch: int = 64,
    confidence_level: float = 0.95,
    metrics: Mapping[str, Metric] = METRICS,
    open_engine: OpenEngine = open_engine,
    locate: bool = False,
    keep_result: bool = False,
) -> Evaluation:
    """Answer, score and write the result to `out`.

    If the evaluation in `out` is complete, the answers are scored again and no engine starts.

    Args:
        limit: number of samples to evaluate, from the first on; a later run in the same `out` may raise it.
        batch: samples given to the engine at once; a killed run loses at most one batch.
        metrics: metrics for the scores, by name.
        open_engine: starts the engine: vLLM, unless a test gives another one.
        locate: whether the model is asked where the issues are, in the mode `cot`.
        keep_result: whether a complete result in `out` is returned as it is, in place of scoring again. It keeps its
            own metrics and confidence level.

    Raises:
        CheckpointError: the checkpoint is incomplete or was changed.
        DataError: the data directory cannot be used.
        EvaluationError: the checkpoint cannot say where issues are, or the data do not.
        RunMismatch: `out` holds another evaluation or other files.
        LogError: another process is writing the log in `out`, or it is damaged.
        Unfinished: the engine failed.
    """
    manifest = verify(checkpoint)
    if locate:
        check_can_locate(checkpoint, manifest)
    everything = read_samples(data)
    samples = everything[:limit]
    if locate and not any(defect.box for sample in samples for one in sample.generated for defect in one.defects):
        raise EvaluationError(
            f"{data}: no defect of these samples has a `box`, so there is nothing to compare boxes with. Use data "
            "that `trainer render` made, or omit --locate"
        )
    digest = data_digest(data, everything)
    identity = Identity(checkpoint=manifest.digest, data=digest, mode=mode, locate=locate)
    model = EvaluatedCheckpoint(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        calibrated=mode in manifest.calibration,
    )
    with open_predictions(out, identity) as predictions:
        if todo := predictions.missing(samples):
            with open_engine(checkpoint, manifest, mode, **({"locate": True} if locate else {})) as engine:
                _answer(engine, manifest, mode, todo, data, predictions, batch=batch, total=len(samples))
        elif keep_result and (there := _result_of(out, len(samples))):
            return there
        frozen = is_test_set(data, digest)
        evaluation = conclude(
            predictions, everything, samples, identity, model, confidence_level, frozen=frozen, metrics=metrics
        )
        write_result(out, evaluation)
    return evaluation


def _result_of(out: Path, samples: int) -> Evaluation | None:
    """The result in a directory; None if it has none that this version can read, or one of fewer or more samples."""
    try:
        there = read_evaluation(out)
    except EvaluationError:
        return None
    return there if there.data.evaluated == samples else None


def check_can_locate(checkpoint: Path, manifest: Manifest) -> None:
    """
    Raises:
        EvaluationError: the checkpoint cannot be asked where issues are.
    """
    if manifest.prompt.locate is None:
        raise EvaluationError(
            f"{checkpoint} cannot say where issues are. Train it with the recipe setting `locate`, or omit --locate"
        )


def predict(
    sample: Sample, reply: Reply, manifest: Manifest, mode: Mode, engine: OfflineEngine, data: Path
) -> Prediction:
    """Parse one reply as the service would.

    Args:
        data: data directory of the sample, whose pictures are read if the reply has regions.
    """
    result = parse(reply.text, mode, manifest.dimensions)
    if isinstance(result, Answer) and any(finding.regions for finding in result.findings):
        frames = {picture.option: read_frame(data, picture.file, manifest.image) for picture in sample.generated}
        result = on_pictures(result, frames)
    calibration = manifest.calibration_of(mode)
    judgement = decide(result, reply.steps, engine.watched, calibration) if isinstance(result, Answer) else None
    strange = reply.domain_score is not None and reply.domain_score >= 1
    most = manifest.domain.confidence_cap if manifest.domain and strange else 1.0
    return Prediction.of(
        Judged(sample, result, judgement.choice if judgement else None),
        text=reply.text,
        finish=reply.finish,
        confidence=min(most, judgement.confidence) if judgement else 0.0,
        probability=judgement.probability if judgement and judgement.source is not Source.NOWHERE else None,
        usable=judgement.usable if judgement else None,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        domain_score=reply.domain_score,
    )


def _answer(
    engine: OfflineEngine,
    manifest: Manifest,
    mode: Mode,
    todo: Sequence[Sample],
    data: Path,
    predictions: Predictions,
    *,
    batch: int,
    total: int,
) -> None:
    """Answer the remaining samples with a progress bar, and log each batch when it is done."""
    from tqdm import tqdm

    with tqdm(desc=f"answering ({mode})", total=total, initial=total - len(todo), unit="sample") as bar:
        for answered in answer_samples(engine, todo, data, image=manifest.image, batch=batch):
            predictions.append(predict(sample, reply, manifest, mode, engine, data) for sample, reply in answered)
            bar.update(len(answered))
