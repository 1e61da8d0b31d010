"""vLLM's offline engine on a verified checkpoint. The trainer starts it here only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from screening.checkpoint.manifest import Manifest
from screening.inference.architecture import quiet_transformers
from screening.inference.generation import (
    PICTURE_FEATURES,
    WATCH_DRAFTS,
    WATCH_PICTURES,
    cpu_environment,
    engine_arguments,
)
from screening.inference.picture_features import Vector, read_features
from screening.runtime.environment import prevent_reports_and_downloads, private_sockets
from screening.runtime.process_reaper import guard

_LOGGING = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Log settings of the engine's processes: errors only, on standard error, because reports go to standard output.
At each start vLLM makes up a prompt that is too long for the model, and transformers warns of it."""


@contextmanager
def start_llm(checkpoint: Path, manifest: Manifest, **more: Any) -> Iterator[Any]:
    """Yield a `vllm.LLM`. Its processes end with the block, or with this process if it is killed.

    Args:
        more: engine arguments in place of those of `screening.inference.generation.engine_arguments`.
    """
    prevent_reports_and_downloads(os.environ)
    for name, value in _LOGGING.items():
        os.environ.setdefault(name, value)
    from vllm import LLM
    from vllm.platforms import current_platform

    device: Literal["cpu", "cuda"] = "cpu" if current_platform.is_cpu() else "cuda"
    for name, value in cpu_environment().items() if device == "cpu" else ():
        os.environ.setdefault(name, value)
    # A forked engine would inherit the pipe by which `guard` sees this process die.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    # `guard` comes last: it must see the engine's processes, and an import would use up its first look.
    with quiet_transformers(), private_sockets(os.environ) as sockets, guard(*sockets):
        llm = LLM(**{**engine_arguments(checkpoint, manifest, device=device), **more})
        try:
            if llm.llm_engine.vllm_config.speculative_config is not None:
                llm.collective_rpc(WATCH_DRAFTS)
            llm.collective_rpc(WATCH_PICTURES, args=(manifest.image.tokens_per_picture,))
            yield llm
        finally:
            # `LLM` has no public method that ends its processes before the interpreter ends.
            llm.llm_engine.engine_core.shutdown()


def request(prompt: str, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Return an input of `LLM.generate`. It names the pictures, so that `features_of` finds them."""
    names = [_name(picture) for picture in pictures]
    return {"prompt": prompt, "multi_modal_data": {"image": list(pictures)}, "multi_modal_uuids": {"image": names}}


def features_of(llm: Any, pictures: Sequence[Image.Image]) -> list[Vector | None]:
    """Return the features of pictures that the engine has just read (`screening.inference.picture_features`); None for
    an unknown picture."""
    # Each worker of a tensor-parallel engine runs the whole vision tower, so the first answer is complete.
    answers = llm.collective_rpc(PICTURE_FEATURES, args=([_name(picture) for picture in pictures],))
    return [read_features(data) for data in answers[0]]


def _name(picture: Image.Image) -> str:
    # Plain pictures of different shapes have the same bytes.
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
