"""Checks that the checkpoint may write answers as long as those that it learns.

The service, `evaluate` and the validation cut an answer at the checkpoint's maximum length, and a cut answer is
unreadable. So a model that has learned longer answers gives none to the questions that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from screening.answer import Mode
from screening.checkpoint.manifest import Decoding
from trainer.data_directory import DataError
from trainer.records import Sample
from trainer.training.sft.agreement import SHOWN


def check_lengths(
    samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], decoding: Decoding, checkpoint: Path, *, strict: bool
) -> None:
    """Report samples whose answer has more tokens than the checkpoint may write.

    Only answers with reasoning are counted; those of Direct mode have a few letters.

    Args:
        samples: the samples that a stage trains on.
        rows: their rows in the same order, as `screening_rows` makes them.
        decoding: how the answers of the trained checkpoint will be generated.
        checkpoint: directory whose `tokenizer.json` counts the tokens. Without that file nothing is reported.
        strict: refuse such samples, as in stage 1.2. Otherwise only warn, as in stage 1.1, whose reasoning stage 1.2
            replaces.

    Raises:
        DataError: `strict` is set and there are such samples.
    """
    file = checkpoint / "tokenizer.json"
    if not file.is_file():
        return
    # transformers' tokenizer uses threads, and then the library warns a process that forks, as the data loader does.
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found: list[tuple[int, int, str]] = []
    for sample, row in zip(samples, rows, strict=True):
        mode, locate = row["form"]
        if mode is Mode.COT:
            text = row["completion"][0]["content"][0]["text"]
            tokens = len(tokenizer.encode(text, add_special_tokens=False).ids) + 1  # the end token
            found.append((tokens - decoding.max_tokens(mode, locate), tokens, sample.id))
    too_long = sorted((one for one in found if one[0] > 0), reverse=True)
    if not too_long:
        return
    shown = ", ".join(f"{name} ({tokens} tokens, {excess} too many)" for excess, tokens, name in too_long[:SHOWN])
    more = ", …" if len(too_long) > SHOWN else ""
    told = (
        f"the answers of {len(too_long)} of {len(samples)} samples are longer than the checkpoint may write, so the "
        f"service would cut them: {shown}{more}. Raise max_tokens_cot to {decoding.max_tokens_cot + too_long[0][0]} "
        "and import the base model again, annotate with fewer --reply-tokens, or remove these samples"
    )
    if strict:
        raise DataError(told)
    print(f"warning: {told}", file=sys.stderr)
