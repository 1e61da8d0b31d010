"""Check of a checkpoint's tensors against its configuration: all are there, no others, and each has its shape.

vLLM checks less. If a part of a fused tensor is missing (`k_proj` of q, k and v), vLLM uses uninitialised memory in its
place, and probes recorded with that memory would pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from screening.errors import CheckpointError


def check_architecture(directory: Path) -> None:
    """Compare the weight files' headers with the model that `config.json` describes. This reads no weights.

    transformers' own loader compares the names, on torch's meta device, which has shapes and no values. It knows which
    name belongs to which module, and that a tied head is in no file.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape, or the configuration is not valid.
    """
    from transformers import AutoModelForImageTextToText

    with quiet_transformers():
        try:
            model, found = AutoModelForImageTextToText.from_pretrained(
                directory,
                local_files_only=True,
                trust_remote_code=False,
                device_map="meta",
                ignore_mismatched_sizes=True,  # so that they are reported and not raised
                output_loading_info=True,
            )
        except MemoryError:  # This may be the machine's fault.
            raise
        except Exception as error:  # transformers raises exceptions of many classes.
            raise CheckpointError(f"{directory}: no model can be built from its config.json: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"{directory} lacks {len(missing)} tensors of its architecture, the first is {missing[0]}"
        )
    if unknown := sorted(found["unexpected_keys"]):
        raise CheckpointError(
            f"{directory} holds {len(unknown)} tensors unknown to its architecture, the first is {unknown[0]}"
        )
    if misshapen := sorted(found["mismatched_keys"]):
        name, shape, wanted = misshapen[0]
        raise CheckpointError(f"{directory}: {name} has the shape {list(shape)}; its architecture has {list(wanted)}")
    # vLLM chooses the model by these names, and transformers by `model_type`.
    named, built = model.config.architectures, type(model).__name__
    if named != [built]:
        raise CheckpointError(
            f"{directory}: config.json names the architectures {named}; its model_type belongs to ['{built}']"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars, warnings and reports, which would hide our error message."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
