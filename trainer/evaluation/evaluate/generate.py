"""Asks a checkpoint batch by batch on vLLM's offline engine.

Engine arguments, prompt and sampling come from `screening.inference.generation`, as in the service: an evaluation that
asks differently would measure another model than the one that is served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from PIL import Image

from screening.answer import Mode
from screening.checkpoint.manifest import ImageContract, Manifest
from screening.inference.generation import (
    FINISHED,
    Spelling,
    Step,
    Watched,
    answer_regex,
    prompt_text,
    sampling_arguments,
    watched,
)
from screening.inference.offline_engine import features_of, request, start_llm
from trainer.data_directory import read_picture
from trainer.evaluation.evaluate.errors import Unfinished

DECODERS = 4
"""Number of threads that decode pictures ahead of the engine. Pillow releases the GIL while it decodes."""

_CONTINUE = "run the same command again to continue"

Pictures: TypeAlias = list[Image.Image]
"""Original, A, B, C, D, each prepared by `screening.inference.pictures`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's output for one question."""

    text: str
    finish: Literal["stop", "length"]
    steps: tuple[Step, ...]
    """One step per generated token, for `screening.confidence`."""
    prompt_tokens: int
    completion_tokens: int
    domain_score: float | None = None
    """The highest out-of-domain score of the question's pictures; None for a checkpoint without a domain."""


@dataclass(frozen=True, slots=True)
class OfflineEngine:
    """An engine that answers questions, and the tokens whose log-probabilities it reports."""

    ask: Callable[[Sequence[Pictures]], list[Reply]]
    watched: Watched


@contextmanager
def open_engine(checkpoint: Path, manifest: Manifest, mode: Mode, *, locate: bool = False) -> Iterator[OfflineEngine]:
    """Start vLLM on a verified checkpoint; its processes end with the block.

    With `locate`, the checkpoint is asked where the issues are, which it must be able to say.
    `ask` raises Unfinished when the engine dies or aborts a question.
    """
    with start_llm(checkpoint, manifest) as llm:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        tokenizer = llm.get_tokenizer()
        watch, spelling = watched(tokenizer), Spelling(tokenizer)
        regex = answer_regex(manifest, mode, locate)
        sampling = SamplingParams(
            **sampling_arguments(manifest, mode, watch.ids, locate),
            structured_outputs=StructuredOutputsParams(regex=regex) if regex else None,
        )
        prompt = prompt_text(tokenizer, manifest.prompt, mode, locate)

        def ask(questions: Sequence[Pictures]) -> list[Reply]:
            requests: list[Any] = [request(prompt, pictures) for pictures in questions]
            try:
                outputs = llm.generate(requests, sampling, use_tqdm=False)
                scores = _domain_scores(llm, manifest, questions)
            except EngineDeadError as error:
                raise Unfinished(f"the engine died; {_CONTINUE}") from error
            return [_reply(output, spelling, score) for output, score in zip(outputs, scores, strict=True)]

        yield OfflineEngine(ask, watch)


class Pictured(Protocol):
    """Anything with the five pictures of a question: a sample, or a sample in another picture order."""

    @property
    def files(self) -> tuple[str, ...]:
        """Original, A, B, C, D, as they are shown."""


Asked = TypeVar("Asked", bound=Pictured)


def answer_samples(
    engine: OfflineEngine, samples: Sequence[Asked], directory: Path, *, image: ImageContract, batch: int
) -> Iterator[list[tuple[Asked, Reply]]]:
    """Answer samples in batches. While the engine works on one batch, the pictures of the next one are decoded.

    Args:
        directory: the data directory of the samples.
        image: how the checkpoint's pictures are prepared.
        batch: samples given to the engine at once.

    Raises:
        DataError: a picture is missing or damaged.
        Unfinished: the engine failed.
    """
    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[Sequence[Asked], list[Future[Pictures]]]] = deque()
        chunks = (samples[start : start + batch] for start in range(0, len(samples), batch))

        def decode_next() -> None:
            if chunk := next(chunks, ()):
                waiting.append((chunk, [pool.submit(load_pictures, directory, sample, image) for sample in chunk]))

        try:
            decode_next()
            while waiting:
                chunk, futures = waiting.popleft()
                pictures = [future.result() for future in futures]
                decode_next()
                yield list(zip(chunk, engine.ask(pictures), strict=True))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def load_pictures(directory: Path, sample: Pictured, image: ImageContract) -> Pictures:
    """The five pictures of a sample as the model sees them.

    Raises:
        DataError: a picture is missing or damaged.
    """
    return [read_picture(directory, file, image) for file in sample.files]


def _domain_scores(llm: Any, manifest: Manifest, questions: Sequence[Pictures]) -> list[float | None]:
    """The highest score of each question's pictures. The engine is asked once for all, because a call costs a step."""
    if manifest.domain is None:
        return [None] * len(questions)
    features = iter(features_of(llm, [picture for pictures in questions for picture in pictures]))
    scores: list[float | None] = []
    for pictures in questions:
        own = [next(features) for _ in pictures]
        known = [each for each in own if each is not None]
        scores.append(max(manifest.domain.scores(known)) if len(known) == len(own) else None)
    return scores


def _reply(output: Any, spelling: Spelling, domain_score: float | None) -> Reply:
    completion = output.outputs[0]
    if completion.finish_reason not in FINISHED:
        # vLLM reports these without raising. Scoring such an output would give a wrong score.
        raise Unfinished(f"the engine aborted a question ({completion.finish_reason!r}); {_CONTINUE}")
    return Reply(
        text=spelling.text(completion.token_ids),
        finish=completion.finish_reason,
        steps=spelling.steps(completion.token_ids, completion.logprobs),
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(completion.token_ids),
        domain_score=domain_score,
    )
