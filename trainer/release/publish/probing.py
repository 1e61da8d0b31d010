"""Records a checkpoint's probes: the log-probabilities that freshly started engines give for fixed questions.

One engine runs as the service does, a second one in float32. The first also proves the checkpoint's `domain` block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.answer import Mode
from screening.checkpoint.domain import Domain, DomainProbe
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
from trainer.evaluation.domain.features import make_extractor

if TYPE_CHECKING:
    from collections.abc import Iterator

ProbeQuestion = tuple[int, Mode, str]
"""Seed of the pictures, mode, answer."""
Ask = Callable[[Sequence[ProbeQuestion]], list[list[float]]]
"""Log-probabilities of the last `TOKENS` tokens of each question's prompt and answer."""

TOKENS = 24
"""Number of tokens whose log-probabilities are compared. With 24, every layer, head and row of the vocabulary takes
part in some of them."""
LEAST_TOLERANCE = 0.002
"""Smallest tolerance of a log-probability. Batching and earlier requests may change the rounding; on three kinds of
machine the repeats did not differ at all. One flipped sign in the tiny checkpoint's weights changes a log-probability
by 0.08 (median), and by at least 0.0009 if it changes the probes at all."""
MARGIN = 4.0
"""Tolerance as a multiple of the spread of repeats."""


@dataclass(frozen=True, slots=True)
class Prober:
    """A running engine that holds one checkpoint."""

    ask: Ask
    machine: str
    """Kind of machine that the engine runs on; see `screening.runtime.machine`."""
    domain_scores: Callable[[Domain, DomainProbe], tuple[float, ...]]
    """Scores of a probe's pictures. Raises ValueError if the features do not fit the domain or there are none."""


def record(ask: Ask, machine: str, dimensions: Sequence[Dimension] = STANDARD_DIMENSIONS, repeats: int = 3) -> Probes:
    """Ask every probe alone and in a batch. The spread of the answers sets the tolerance.

    Args:
        machine: kind of machine that answers; see `screening.runtime.machine`.
        dimensions: the dimensions of the checkpoint.

    Raises:
        ValueError: a log-probability is not finite, or repeats differ too much to tell weights apart.
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
        raise ValueError(f"repeats of the same question differ by {spread:.3g}, too much to prove which weights answer")
    return Probes(questions=tuple(probes), tolerance=tolerance, machine=machine)


def with_exact(probes: Probes, ask: Ask) -> Probes:
    """Add the log-probabilities of an engine in float32, which lets other kinds of machines verify the checkpoint.

    Raises:
        ValueError: they differ from the recorded ones by more than rounding explains.
    """
    found = ask(_questions((probe.mode, probe.answer) for probe in probes.questions))
    rounding = root_mean_square([probe.logprobs for probe in probes.questions], found)
    if rounding > MOST_ROUNDING:
        raise ValueError(
            f"an engine in float32 gives log-probabilities that differ by {rounding:.3g} on average; rounding explains "
            f"at most {MOST_ROUNDING:g}"
        )
    questions = tuple(
        probe.model_copy(update={"exact": tuple(exact)}) for probe, exact in zip(probes.questions, found, strict=True)
    )
    return probes.model_copy(update={"questions": questions})


def prove_domain(domain: Domain | None, prober: Prober) -> None:
    """Check that a checkpoint's domain block was fitted to its weights, as a service does at a swap.

    Raises:
        CheckpointError: it was not.
        ValueError: the engine gives no features, or their width is not the domain's.
    """
    if domain is not None:
        domain.verify([prober.domain_scores(domain, probe) for probe in domain.probes])


def _questions(answers: Iterable[tuple[Mode, str]]) -> list[ProbeQuestion]:
    """Both modes share their pictures: a swap waits until the vision tower has encoded each of them."""
    return [(turn // len(Mode), mode, answer) for turn, (mode, answer) in enumerate(answers)]


@contextmanager
def open_prober(checkpoint: Path, manifest: Manifest, **engine_arguments: Any) -> Iterator[Prober]:
    """Start vLLM on a verified checkpoint; its processes end with the block.

    Raises:
        RuntimeError: vLLM does not start. The prober's functions raise it when the engine dies.
    """
    with start_llm(checkpoint, manifest, **engine_arguments) as llm:
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        tokenizer: Any = llm.get_tokenizer()
        sampling = SamplingParams(**probe_sampling_arguments())
        extract, image = make_extractor(llm, manifest), manifest.image

        def ask(questions: Sequence[ProbeQuestion]) -> list[list[float]]:
            requests: list[Any] = [
                {
                    "prompt": prompt_text(tokenizer, manifest.prompt, mode) + answer,
                    "multi_modal_data": {"image": list(probe_pictures(seed, image.size, image.max_patches))},
                }
                for seed, mode, answer in questions
            ]
            try:
                outputs = llm.generate(requests, sampling, use_tqdm=False)
            except EngineDeadError as error:
                raise RuntimeError("the engine died while it answered") from error
            return [last_log_probabilities(one.prompt_token_ids, one.prompt_logprobs, TOKENS) for one in outputs]

        def domain_scores(domain: Domain, probe: DomainProbe) -> tuple[float, ...]:
            (features,) = extract([probe_pictures(probe.seed, manifest.image.size)])
            return domain.scores(list(features))

        yield Prober(ask, _machine(), domain_scores)


def _machine() -> str:
    """The kind of machine that records, in bfloat16."""
    from vllm.platforms import current_platform

    return machine_name("cpu" if current_platform.is_cpu() else current_platform.get_device_name())
