"""vLLM's offline engine for questions with different texts and numbers of pictures.

Engine arguments, sampling and tiling come from `screening.inference.generation`, as in the service and in
`trainer evaluate`. The checkpoint's answer grammar is not used, because it only allows screening's own answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.inference.generation import FINISHED, Spelling, sampling_arguments
from screening.inference.offline_engine import start_llm
from trainer.evaluation.evaluate.errors import EvaluationError, Unfinished
from trainer.evaluation.evaluate.generate import Reply

_CONTINUE = "run the same command again to continue"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question in the form that a model takes."""

    id: str
    messages: list[dict[str, Any]]
    """Chat messages with one image item per picture."""
    pictures: list[Image.Image]
    """Pictures in the order of the image items, each as the model's square input."""


Ask = Callable[[Sequence[Asked]], list[Reply]]
"""Answers questions in order; raises EvaluationError if it fails."""

OpenEngine = Callable[[Path, Manifest, Mode, int], AbstractContextManager[Ask]]
"""(checkpoint, manifest, mode, maximum number of pictures per question) → context manager of an `Answer` function."""


@contextmanager
def open_engine(checkpoint: Path, manifest: Manifest, mode: Mode, most_pictures: int) -> Iterator[Ask]:
    """Start vLLM on a verified checkpoint; its processes end with the block."""
    with start_llm(checkpoint, manifest, limit_mm_per_prompt={"image": most_pictures}) as llm:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError

        tokenizer = llm.get_tokenizer()
        spelling = Spelling(tokenizer)
        sampling = SamplingParams(**sampling_arguments(manifest, mode, ()))

        def ask(questions: Sequence[Asked]) -> list[Reply]:
            requests: list[Any] = [
                {
                    "prompt": tokenizer.apply_chat_template(q.messages, tokenize=False, add_generation_prompt=True),
                    "multi_modal_data": {"image": q.pictures},
                }
                for q in questions
            ]
            try:
                outputs = llm.generate(requests, sampling, use_tqdm=False)
            except EngineDeadError as error:
                raise Unfinished(f"the engine died; {_CONTINUE}") from error
            except VLLMValidationError as error:  # a question longer than the model's context
                span = f"a question from {questions[0].id} to {questions[-1].id}"
                raise EvaluationError(f"{span} cannot be asked: {error}") from error
            return [_reply(question.id, output, spelling) for question, output in zip(questions, outputs, strict=True)]

        yield ask


def _reply(question: str, output: Any, spelling: Spelling) -> Reply:
    completion = output.outputs[0]
    if completion.finish_reason not in FINISHED:
        raise Unfinished(f"the engine gave up on {question} ({completion.finish_reason!r}); {_CONTINUE}")
    return Reply(
        text=spelling.text(completion.token_ids),
        finish=completion.finish_reason,
        steps=(),
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(completion.token_ids),
    )
