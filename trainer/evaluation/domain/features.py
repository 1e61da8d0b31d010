"""Gets the features of pictures from the engine that serves a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from screening.answer import Mode
from screening.checkpoint.domain import Array
from screening.checkpoint.manifest import ImageContract, Manifest
from screening.inference.generation import probe_sampling_arguments, prompt_text
from screening.inference.offline_engine import features_of, request, start_llm
from screening.prompt import PICTURES_PER_SAMPLE
from trainer.data_directory import read_picture
from trainer.evaluation.domain.errors import DomainFitError
from trainer.records import Sample

Extract = Callable[[Sequence[Sequence[Image.Image]]], Array]
"""Features of the pictures of questions: (questions, 5, width)."""

BATCH = 64
"""Questions given to the engine at once: few enough that it still remembers the features of all their pictures."""


@contextmanager
def open_extractor(checkpoint: Path, manifest: Manifest, **engine_arguments: Any) -> Iterator[Extract]:
    """Start vLLM on a verified checkpoint; its processes end with the block.

    Raises:
        RuntimeError: vLLM does not start.
    """
    with start_llm(checkpoint, manifest, **engine_arguments) as llm:
        yield make_extractor(llm, manifest)


def make_extractor(llm: Any, manifest: Manifest) -> Extract:
    """Return a function that has a running engine encode pictures and returns their features.

    The function raises RuntimeError when the engine dies, and DomainFitError when the engine gives no features.
    """
    from vllm import SamplingParams
    from vllm.v1.engine.exceptions import EngineDeadError

    prompt = prompt_text(llm.get_tokenizer(), manifest.prompt, Mode.COT)
    sampling = SamplingParams(**probe_sampling_arguments())

    def extract(questions: Sequence[Sequence[Image.Image]]) -> Array:
        requests: list[Any] = [request(prompt, pictures) for pictures in questions]
        try:
            llm.generate(requests, sampling, use_tqdm=False)
            features = [feature for pictures in questions for feature in features_of(llm, pictures)]
        except EngineDeadError as error:
            raise RuntimeError("the engine died while it read pictures") from error
        known = [feature for feature in features if feature is not None]
        if len(known) < len(features):
            raise DomainFitError("the engine gives no features; pictures cut into tiles are not supported")
        return np.stack(known).astype(np.float64).reshape(len(questions), PICTURES_PER_SAMPLE, -1)

    return extract


def features_of_samples(extract: Extract, samples: Sequence[Sample], directory: Path, image: ImageContract) -> Array:
    """Features of the pictures of a data directory, (samples, 5, width).

    Raises:
        DataError: a picture is missing or damaged.
    """
    from tqdm import tqdm

    found = []
    with ThreadPoolExecutor(4, thread_name_prefix="decode") as pool:
        for start in tqdm(range(0, len(samples), BATCH), desc="looking", unit="batch"):
            batch = samples[start : start + BATCH]
            found.append(extract(list(pool.map(lambda sample: _pictures(sample, directory, image), batch))))
    return np.concatenate(found)


def _pictures(sample: Sample, directory: Path, image: ImageContract) -> list[Image.Image]:
    return [read_picture(directory, file, image) for file in sample.files]
