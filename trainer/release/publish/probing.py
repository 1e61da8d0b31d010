"""What a checkpoint answers to its probes, asked of engines that loaded it fresh: as it is served, and in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import (
    MOST_ROUNDING,
    MOST_TOLERANCE,
    Probe,
    Probes,
    deviation,
    probe_answers,
    probe_pictures,
    root_mean_square,
)
from screening.inference.generation import last_log_probabilities, probe_sampling_arguments, prompt_text
from screening.inference.offline_engine import start_llm
from screening.runtime.machine import machine_name
from screening.task import STANDARD_DIMENSIONS, Dimension

if TYPE_CHECKING:
    from collections.abc import Iterator

Question = tuple[int, Mode, str]
"""Seed of the pictures, mode, answer."""
Ask = Callable[[Sequence[Question]], list[list[float]]]
"""Log-probabilities of the last `TOKENS` tokens of each question's prompt and answer."""

TOKENS = 24
"""Tokens of an answer that are compared: enough that every layer, head and row of the vocabulary has a part in some."""
LEAST_TOLERANCE = 0.002
"""Repeats in another company, or after other requests, may round otherwise; found on three kinds of machine: 0. One
flipped sign of the tiny checkpoint: 0.08 (median), and at least 0.0009 where it has any effect on the probes."""
MARGIN = 4.0
"""How many times the spread of repeats is tolerated."""


def record(ask: Ask, machine: str, dimensions: Sequence[Dimension] = STANDARD_DIMENSIONS, repeats: int = 3) -> Probes:
    """Ask every probe alone and in company, and take the spread as the measure of what is the same.

    Args:
        machine: what answers; see `screening.runtime.machine`.
        dimensions: those of the checkpoint.

    Raises:
        ValueError: the checkpoint gives no finite log-probabilities, or repeats differ too much to prove anything.
    """
    questions = _questions(probe_answers(dimensions))
    first = ask(questions)
    if not all(math.isfinite(value) for found in first for value in found):
        raise ValueError("the checkpoint gives log-probabilities that are not finite")
    again = [ask(questions) if turn % 2 else [ask([one])[0] for one in questions] for turn in range(repeats)]
    probes = [
        Probe(seed=seed, mode=mode, answer=answer, logprobs=tuple(found))
        for (seed, mode, answer), found in zip(questions, first, strict=True)
    ]
    spread = max(deviation(*pair) for found in again for pair in zip(first, found, strict=True))
    if spread == float("inf"):
        raise ValueError("the checkpoint gives log-probabilities that are not finite")
    if (tolerance := max(LEAST_TOLERANCE, MARGIN * spread)) > MOST_TOLERANCE:
        raise ValueError(f"repeats of the same question differ by {spread:.3g}: the engine's answers prove nothing")
    return Probes(questions=tuple(probes), tolerance=tolerance, machine=machine)


def with_exact(probes: Probes, ask: Ask) -> Probes:
    """Add what an engine in float32 answers.

    Raises:
        ValueError: that is further off than rounding may be.
    """
    found = ask(_questions((probe.mode, probe.answer) for probe in probes.questions))
    rounding = root_mean_square([probe.logprobs for probe in probes.questions], found)
    if rounding > MOST_ROUNDING:
        raise ValueError(f"an engine in float32 answers {rounding:.3g} off on average, which is no rounding")
    questions = tuple(
        probe.model_copy(update={"exact": tuple(exact)}) for probe, exact in zip(probes.questions, found, strict=True)
    )
    return probes.model_copy(update={"questions": questions})


def _questions(answers: Iterable[tuple[Mode, str]]) -> list[Question]:
    """Both modes of an answer are about the same pictures: a swap waits for the ViT to look at all of them."""
    return [(turn // len(Mode), mode, answer) for turn, (mode, answer) in enumerate(answers)]


@contextmanager
def open_prober(checkpoint: Path, manifest: Manifest, **engine_arguments: Any) -> Iterator[tuple[Ask, str]]:
    """Start vLLM on a verified checkpoint, and say what it runs on; its processes end with the block.

    Raises:
        RuntimeError: it does not start. `ask` raises it when the engine dies.
    """
    with start_llm(checkpoint, manifest, **engine_arguments) as llm:
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        tokenizer: Any = llm.get_tokenizer()
        sampling = SamplingParams(**probe_sampling_arguments())

        def ask(questions: Sequence[Question]) -> list[list[float]]:
            requests: list[Any] = [
                {
                    "prompt": prompt_text(tokenizer, manifest.prompt, mode) + answer,
                    "multi_modal_data": {"image": list(probe_pictures(seed, manifest.image.size))},
                }
                for seed, mode, answer in questions
            ]
            try:
                outputs = llm.generate(requests, sampling, use_tqdm=False)
            except EngineDeadError as error:
                raise RuntimeError("the engine died while it answered") from error
            return [last_log_probabilities(one.prompt_token_ids, one.prompt_logprobs, TOKENS) for one in outputs]

        yield ask, _machine()


def _machine() -> str:
    from vllm.platforms import current_platform

    return machine_name("cpu" if current_platform.is_cpu() else current_platform.get_device_name())
