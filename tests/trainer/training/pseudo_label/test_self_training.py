"""From questions without labels to a trained checkpoint: `pseudo-label`, then `sft`, on random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from screening.checkpoint.manifest import verify
from tests.trainer.coloured import make_data
from tests.trainer.training.pseudo_label.reordered_engine import ReorderedEngine, truthful
from trainer.__main__ import main
from trainer.training.pseudo_label.label import Order, pseudo_label
from trainer.training.pseudo_label.select import Rules

pytestmark = pytest.mark.slow

LABELS = ("AC", "B", "A", "D")
RECIPE = """\
name: small
prompt: compact
max_tokens_cot: 256
sft_weak: {epochs: 1, batch_size: 5, learning_rate: 0.001, captions: true}
sft_answer: {epochs: 1, batch_size: 5, learning_rate: 0.001, captions: false}
"""


def test_pseudo_labels_and_replayed_samples_are_trained_on_like_any_others(
    small_checkpoint: Path, small_data: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    data = make_data(tmp_path / "questions", LABELS, labelled=False)
    order = Order(small_checkpoint, data, tmp_path / "labelled", Rules(1.0, 0.8, 10), replay=small_data)
    result = pseudo_label(order, open_engine=ReorderedEngine(truthful(LABELS)))
    assert (result.selected, result.replayed) == (4, 6)

    (tmp_path / "small.yaml").write_text(RECIPE)
    places = {"--recipe": tmp_path / "small.yaml", "--data": order.out, "--out": tmp_path / "sft"}
    options = ["--tracking-uri", "none", *(str(part) for pair in places.items() for part in pair)]
    assert main(["sft", "--stage", "answer-driven", "--checkpoint", str(small_checkpoint), *options]) == 0
    manifest = verify(tmp_path / "sft/checkpoint")
    [trained] = manifest.data.values()
    assert (trained["samples"], trained["pseudo_labels"]) == (10, 4)
    assert manifest.parent == verify(small_checkpoint).digest
