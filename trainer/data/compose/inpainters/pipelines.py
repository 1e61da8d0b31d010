"""What the inpainters that use diffusers share: loading a local pipeline, its random numbers, and errors of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.compose.extra import need
from trainer.data.compose.failures import ComposeError
from trainer.data.compose.model_options import ModelOptions

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def load(pipeline: str, folder: Path, options: ModelOptions, **left_out: None) -> Any:
    """Load a pipeline of diffusers from a local folder.

    Args:
        pipeline: name of its class.
        left_out: parts that are not used, such as `text_encoder=None`. diffusers needs them spelled out.

    Raises:
        ComposeError: the folder is not such a pipeline, or a package is missing.
        MemoryError: it does not fit into memory.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the first import of huggingface_hub
    diffusers, torch, transformers = need("diffusers"), need("torch"), need("transformers")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        with memory_errors():
            loaded = getattr(diffusers, pipeline).from_pretrained(
                str(folder),
                dtype=torch.float32 if device == "cpu" else torch.bfloat16,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                **left_out,
            )
            if options.offload and device != "cpu":
                loaded.enable_model_cpu_offload(device=device)
            else:
                loaded.to(device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ComposeError(f"{folder} cannot be loaded as {pipeline}: {error}") from error
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generator(seed: int) -> Any:
    """Random numbers for one picture. They come from the CPU, so that every device draws the same ones."""
    return need("torch").Generator("cpu").manual_seed(seed)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's several errors about memory into `MemoryError`, and give back what the GPU holds.

    Raises:
        MemoryError: the block ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise
        torch = need("torch")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise MemoryError(str(error).splitlines()[0][:200]) from error
