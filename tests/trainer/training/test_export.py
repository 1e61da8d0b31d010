"""The record of the data that a checkpoint was trained on."""

from __future__ import annotations

from trainer.training.export import with_stage


def test_a_second_round_of_a_stage_does_not_hide_the_first() -> None:
    one, two, three = ({"digest": f"sha256:{number}"} for number in (1, 2, 3))
    data = with_stage({"pretrain": one}, "sft", two)
    assert with_stage(data, "sft", two) == data
    again = with_stage(with_stage(data, "sft", three), "sft", one)
    assert again == {"pretrain": one, "sft": two, "sft 2": three, "sft 3": one}
