"""The stage `benchmark evaluate`: answer the questions of a part with a checkpoint and score the answers.

Steps: verify the checkpoint, read the part, load the replies of an earlier run, answer the rest, score, write. A
complete evaluation is scored again without starting an engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from screening.answer import Mode, Unreadable
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from screening.runtime.atomic_write import write_atomically
from screening.runtime.utc_time import utc_now_text
from trainer.data_directory import read_picture
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.generate import DECODERS, Reply
from trainer.evaluation.evaluate.report import REPORT_NAME
from trainer.evaluation.evaluate.result import SCORES_NAME, EvaluatedCheckpoint, EvaluatedData, Tokens, versions
from trainer.research.benchmarks.answer import read
from trainer.research.benchmarks.engine import Ask, Asked, OpenEngine, open_engine
from trainer.research.benchmarks.prompt import PROMPT_VERSION, messages
from trainer.research.benchmarks.questions import Benchmark, Part, Question, read_benchmark
from trainer.research.benchmarks.report import BenchmarkEvaluation, Judged, benchmark_scores, render
from trainer.runs.json_log import open_log, read_log
from trainer.runs.run_directory import claim

REPLIES_NAME = "replies.jsonl"
"""The model's outputs, written after each batch; a later run continues from them."""

ANSWERS_NAME = "answers.jsonl"
"""For each question the truth, the parsed answer and the output; written with the scores, for readers."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(_Line):
    """One line of `replies.jsonl`."""

    id: str
    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Answered(_Line):
    """One line of `answers.jsonl`."""

    id: str
    subtask: str
    truth: str
    answer: str | None
    """The parsed answer; None if it is unreadable, and `why` then says why."""
    right: bool
    why: str = ""
    text: str


def evaluate(
    checkpoint: Path,
    data: Path,
    part: Part,
    out: Path,
    *,
    mode: Mode,
    limit: int | None = None,
    batch: int = 64,
    open_engine: OpenEngine = open_engine,
) -> BenchmarkEvaluation:
    """Answer, score and write the result to `out`.

    Args:
        data: a split benchmark.
        limit: number of questions, from the first; None means all. A later run in the same `out` may raise it.
        batch: number of questions handed to the engine at once; a killed run loses at most one batch.
        open_engine: starts the engine; tests replace vLLM with their own.

    Raises:
        CheckpointError: the checkpoint is incomplete or was changed.
        DataError: the benchmark cannot be used.
        EvaluationError: a question cannot be asked.
        Unfinished: the engine failed.
        LogError: the log of an earlier run is damaged, or another process is writing it.
        RunMismatch: `out` belongs to another run.
    """
    manifest = verify(checkpoint)
    benchmark = read_benchmark(data, part)
    questions = benchmark.questions[:limit]
    claim(out, origin(manifest, benchmark, mode))
    with open_log(out / REPLIES_NAME, Response) as log:
        done = {response.id: response for response in log.written}
        if todo := [question for question in questions if question.id not in done]:
            most = max(len(question.files) for question in benchmark.questions)
            with open_engine(checkpoint, manifest, mode, most) as ask:
                for responses in _answer(ask, todo, data, manifest, mode, batch, total=len(questions)):
                    log.append(responses)
                    done |= {response.id: response for response in responses}
    responses = [done[question.id] for question in questions]
    judged = parse_responses(questions, responses, mode)
    evaluation = BenchmarkEvaluation(
        created=utc_now_text(),
        benchmark=benchmark.name,
        part=part,
        prompt=PROMPT_VERSION,
        checkpoint=EvaluatedCheckpoint(name=manifest.name, version=manifest.version, digest=manifest.digest),
        data=EvaluatedData(digest=benchmark.digest, samples=len(benchmark.questions), evaluated=len(questions)),
        mode=mode,
        scores=benchmark_scores(judged),
        tokens=Tokens(
            prompt=fmean(one.prompt_tokens for one in responses),
            completion=fmean(one.completion_tokens for one in responses),
            cut=sum(one.finish == "length" for one in responses),
        ),
        versions=versions(),
    )
    write_atomically(out / ANSWERS_NAME, "".join(map(_line, judged, responses)))
    write_atomically(out / REPORT_NAME, render(evaluation))
    write_atomically(out / SCORES_NAME, evaluation.model_dump_json(indent=2) + "\n")
    return evaluation


def origin(manifest: Manifest, benchmark: Benchmark, mode: Mode) -> dict[str, object]:
    """The settings that decide the replies; evaluations with equal settings can share them."""
    return {
        "stage": "benchmark-evaluate",
        "benchmark": benchmark.name,
        "data": benchmark.digest,
        "checkpoint": manifest.digest,
        "mode": mode.value,
        "prompt": PROMPT_VERSION,
    }


def read_judged(out: Path, manifest: Manifest, benchmark: Benchmark, mode: Mode) -> list[Judged]:
    """Read the parsed answers of a complete evaluation, for later stages.

    Raises:
        EvaluationError: `out` holds no evaluation, or an incomplete one.
        LogError: its log is damaged.
        RunMismatch: the evaluation is of another checkpoint, part or mode.
    """
    path = out / REPLIES_NAME
    if not path.is_file():
        raise EvaluationError(f"{out} holds no evaluation; run `python -m trainer benchmark evaluate` with this --out")
    claim(out, origin(manifest, benchmark, mode))
    done = {response.id: response for response in read_log(path, Response)}
    if missing := [question.id for question in benchmark.questions if question.id not in done]:
        raise EvaluationError(
            f"{out} lacks {len(missing)} of {len(benchmark.questions)} questions, the first is {missing[0]}; "
            "evaluate without --limit"
        )
    return parse_responses(benchmark.questions, [done[question.id] for question in benchmark.questions], mode)


def parse_responses(questions: Sequence[Question], responses: Sequence[Response], mode: Mode) -> list[Judged]:
    """Parse each output as the answer to its question."""
    pairs = zip(questions, responses, strict=True)
    return [Judged(question, read(response.text, question, mode)) for question, response in pairs]


def _answer(
    ask: Ask, todo: Sequence[Question], data: Path, manifest: Manifest, mode: Mode, batch: int, *, total: int
) -> Iterator[list[Response]]:
    """Answer the open questions in batches, with a progress bar on the console."""
    from tqdm import tqdm

    def asked(question: Question) -> Asked:
        pictures = [read_picture(data, file, manifest.image) for file in question.files]
        return Asked(question.id, messages(question, mode), pictures)

    with (
        ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool,
        tqdm(desc=f"answering ({mode})", total=total, initial=total - len(todo), unit="question") as bar,
    ):
        for start in range(0, len(todo), batch):
            chunk = todo[start : start + batch]
            replies = ask(list(pool.map(asked, chunk)))
            yield [_response(question, reply) for question, reply in zip(chunk, replies, strict=True)]
            bar.update(len(chunk))


def _response(question: Question, reply: Reply) -> Response:
    return Response(
        id=question.id,
        text=reply.text,
        finish=reply.finish,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


def _line(one: Judged, response: Response) -> str:
    unreadable = one.result if isinstance(one.result, Unreadable) else None
    answered = Answered(
        id=one.question.id,
        subtask=one.question.subtask,
        truth=one.question.answer,
        answer=None if isinstance(one.result, Unreadable) else one.result.answer,
        right=one.right,
        why=unreadable.detail if unreadable else "",
        text=response.text,
    )
    return answered.model_dump_json() + "\n"
