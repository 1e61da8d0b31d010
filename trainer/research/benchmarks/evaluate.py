"""The stage `benchmark evaluate`: answer the questions of a part with a checkpoint and score the answers.

verify the checkpoint → read the part → go on where an earlier run stopped → answer → score → write the result.
A directory whose evaluation is complete is scored again without starting an engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from screening.answer import Mode, Unreadable
from screening.checkpoint.manifest import Manifest, verify
from screening.runtime.atomic_write import write_atomically
from trainer.data_directory import read_square
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.generate import DECODERS, Reply
from trainer.evaluation.evaluate.report import REPORT_NAME
from trainer.evaluation.evaluate.result import SCORES_NAME, EvaluatedCheckpoint, EvaluatedData, Tokens, now, versions
from trainer.research.benchmarks.answer import read
from trainer.research.benchmarks.engine import Ask, Asked, OpenEngine, open_engine
from trainer.research.benchmarks.prompt import PROMPT_VERSION, messages
from trainer.research.benchmarks.questions import Benchmark, Part, Question, read_benchmark
from trainer.research.benchmarks.report import BenchmarkEvaluation, Judged, benchmark_scores, render
from trainer.runs.json_log import open_log, read_log
from trainer.runs.run_directory import claim

REPLIES_NAME = "replies.jsonl"
"""The model's outputs, one line as soon as its batch is done; all that a later run goes on from."""

ANSWERS_NAME = "answers.jsonl"
"""Per question the truth, what was read, and the output: for people, written with the scores."""


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
    """None: unreadable; `why` says in which way."""
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
        limit: only the first so many questions; a later run in the same `out` may ask for more.
        batch: questions handed to the engine at once; what a killed run loses at most.
        open_engine: starts what answers; vLLM unless a test brings its own.

    Raises:
        CheckpointError: the checkpoint is not whole or was changed.
        DataError: the benchmark cannot be used.
        EvaluationError: a question cannot be asked.
        Unfinished: the engine failed.
        LogError: the log of an earlier run is damaged, or written by another process.
        RunMismatch: `out` holds something else.
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
    judged = judge(questions, responses, mode)
    evaluation = BenchmarkEvaluation(
        created=now(),
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
    """What makes two evaluations the same: their replies can be mixed."""
    return {
        "stage": "benchmark-evaluate",
        "benchmark": benchmark.name,
        "data": benchmark.digest,
        "checkpoint": manifest.digest,
        "mode": mode.value,
        "prompt": PROMPT_VERSION,
    }


def read_judged(out: Path, manifest: Manifest, benchmark: Benchmark, mode: Mode) -> list[Judged]:
    """What an evaluation made of every question of a part, for whoever builds on it.

    Raises:
        EvaluationError: `out` holds no evaluation, or one that has not answered all questions.
        LogError: its log is damaged.
        RunMismatch: it is of another checkpoint, part or mode.
    """
    path = out / REPLIES_NAME
    if not path.is_file():
        raise EvaluationError(f"{out} holds no evaluation; run `python -m trainer benchmark evaluate` with it as --out")
    claim(out, origin(manifest, benchmark, mode))
    done = {response.id: response for response in read_log(path, Response)}
    if missing := [question.id for question in benchmark.questions if question.id not in done]:
        raise EvaluationError(
            f"{out} lacks {len(missing)} of {len(benchmark.questions)} questions, the first is {missing[0]}; "
            "evaluate without --limit"
        )
    return judge(benchmark.questions, [done[question.id] for question in benchmark.questions], mode)


def judge(questions: Sequence[Question], responses: Sequence[Response], mode: Mode) -> list[Judged]:
    """Read each output as the answer to its question."""
    pairs = zip(questions, responses, strict=True)
    return [Judged(question, read(response.text, question, mode)) for question, response in pairs]


def _answer(
    ask: Ask, todo: Sequence[Question], data: Path, manifest: Manifest, mode: Mode, batch: int, *, total: int
) -> Iterator[list[Response]]:
    """Answer what is left, batch by batch, with a bar on the console."""
    from tqdm import tqdm

    def asked(question: Question) -> Asked:
        pictures = [read_square(data, file, manifest.image.size) for file in question.files]
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
