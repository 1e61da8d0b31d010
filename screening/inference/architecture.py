"""Whether a checkpoint holds the tensors that its configuration asks for: all of them, no others, each of its shape.

vLLM compares less. A part of a fused tensor may be missing (`k_proj` of q, k and v): its place is then memory that
nobody wrote, and probes recorded from that would prove it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from screening.errors import CheckpointError


def check_architecture(directory: Path) -> None:
    """Match the weight files' headers with the model that `config.json` describes. No weight is read.

    The names are compared by transformers' own loader, on torch's meta device, which has shapes and no values: it knows
    which names stand for which module, and that a tied head is in no file.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape, or the configuration is not understood.
    """
    from transformers import AutoModelForImageTextToText

    with quiet_transformers():
        try:
            model, found = AutoModelForImageTextToText.from_pretrained(
                directory,
                local_files_only=True,
                trust_remote_code=False,
                device_map="meta",
                ignore_mismatched_sizes=True,  # reported instead of raised
                output_loading_info=True,
            )
        except MemoryError:  # which may be the machine's fault
            raise
        except Exception as error:  # transformers raises errors of its own choosing on a configuration
            raise CheckpointError(f"{directory}: no model can be built from its config.json: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{directory} lacks tensors of its architecture ({len(missing)}): {missing[0]}")
    if unknown := sorted(found["unexpected_keys"]):
        raise CheckpointError(f"{directory} holds tensors unknown to its architecture ({len(unknown)}): {unknown[0]}")
    if misshapen := sorted(found["mismatched_keys"]):
        name, shape, wanted = misshapen[0]
        raise CheckpointError(f"{directory}: {name} is {list(shape)}, and its architecture wants {list(wanted)}")
    # vLLM chooses its model by these names, and transformers by `model_type`.
    named, built = model.config.architectures, type(model).__name__
    if named != [built]:
        raise CheckpointError(
            f"{directory}: the architectures of its config.json are {named}; its model_type makes them ['{built}']"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars, warnings and reports, which would stand above our sentence."""
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
