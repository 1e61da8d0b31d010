"""What a checkpoint answers to its probes, asked of an engine that loaded it fresh."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.answer import Mode
from screening.checkpoint import Manifest
from screening.generation import prompt_text
from screening.probes import Probe, Probes, deviation, probe_answers, probe_pictures
from trainer.offline_engine import start_llm

if TYPE_CHECKING:
    from collections.abc import Iterator

Question = tuple[int, Mode, str]
"""Seed of the pictures, mode, answer."""
Ask = Callable[[Sequence[Question]], list[list[float]]]
"""Log-probabilities of the last `TOKENS` tokens of each question's prompt and answer."""

TOKENS = 24
"""Tokens of an answer that are compared: enough that every layer, head and row of the vocabulary has a part in some."""
LEAST_TOLERANCE = 0.02
"""Another build or machine may round otherwise; wrong weights are off by far more."""
MOST_TOLERANCE = 1.0
"""Beyond it, wrong weights could pass. Found: 0.02 for the tiny checkpoint, 0.23 for random weights of the 2B."""
MARGIN = 4.0
"""How many times the spread of repeats is tolerated."""


def record(ask: Ask, repeats: int = 3) -> Probes:
    """Ask every probe alone and in company, and take the spread as the measure of what is the same.

    Raises:
        ValueError: the checkpoint gives no finite log-probabilities, or repeats differ too much to prove anything.
    """
    # Both modes of an answer are about the same pictures: a swap waits for the ViT to look at all of them.
    questions = [(turn // len(Mode), mode, answer) for turn, (mode, answer) in enumerate(probe_answers())]
    first = ask(questions)
    if not all(math.isfinite(value) for found in first for value in found):
        raise ValueError("the checkpoint gives log-probabilities that are not finite")
    again = [ask(questions) if turn % 2 else [ask([one])[0] for one in questions] for turn in range(repeats)]
    probes = [
        Probe(seed=seed, mode=mode, answer=answer, logprobs=tuple(found))
        for (seed, mode, answer), found in zip(questions, first, strict=True)
    ]
    spread = max(deviation(probe, found[place]) for found in [first, *again] for place, probe in enumerate(probes))
    if spread == float("inf"):
        raise ValueError("the checkpoint gives log-probabilities that are not finite")
    if (tolerance := max(LEAST_TOLERANCE, MARGIN * spread)) > MOST_TOLERANCE:
        raise ValueError(f"repeats of the same question differ by {spread:.3g}: the engine's answers prove nothing")
    return Probes(questions=tuple(probes), tolerance=tolerance)


@contextmanager
def open_prober(checkpoint: Path, manifest: Manifest) -> Iterator[Ask]:
    """Start vLLM on a verified checkpoint; its processes end with the block."""
    with start_llm(checkpoint, manifest) as llm:
        from vllm import SamplingParams

        tokenizer: Any = llm.get_tokenizer()
        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)

        def ask(questions: Sequence[Question]) -> list[list[float]]:
            requests: list[Any] = [
                {
                    "prompt": prompt_text(tokenizer, manifest.prompt, mode) + answer,
                    "multi_modal_data": {"image": list(probe_pictures(seed, manifest.image.size))},
                }
                for seed, mode, answer in questions
            ]
            return [_last(output) for output in llm.generate(requests, sampling, use_tqdm=False)]

        yield ask


def _last(output: Any) -> list[float]:
    pairs = zip(output.prompt_token_ids[-TOKENS:], output.prompt_logprobs[-TOKENS:], strict=True)
    return [float(entry[token].logprob) for token, entry in pairs]
