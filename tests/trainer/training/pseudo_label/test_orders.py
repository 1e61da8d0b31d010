"""Picture orders: what is shown, and how answers are mapped back."""

from __future__ import annotations

from itertools import combinations

import pytest

from screening.task import OPTIONS
from trainer.training.pseudo_label.orders import ORDERS, OWN_ORDER, in_order, mapped_back

FILES = ("original", *OPTIONS)
LABELS = [frozenset(some) for count in range(5) for some in combinations(OPTIONS, count)]


@pytest.mark.parametrize("order", ORDERS)
def test_an_answer_to_any_order_is_mapped_back_to_the_pictures_it_means(order: str) -> None:
    original, *pictures = in_order(FILES, order)
    assert original == "original"
    for label in LABELS:
        answer = frozenset(position for position, picture in zip(OPTIONS, pictures, strict=True) if picture in label)
        assert mapped_back(answer, order) == label


def test_an_order_names_the_picture_that_stands_in_each_position() -> None:
    assert in_order(FILES, "BDAC") == ("original", "B", "D", "A", "C")
    assert mapped_back(frozenset("A"), "BDAC") == {"B"}
    assert mapped_back(frozenset("BD"), "BDAC") == {"D", "C"}


def test_there_are_24_orders_and_the_first_four_show_each_picture_once_in_each_position() -> None:
    assert len(set(ORDERS)) == 24
    assert ORDERS[0] == OWN_ORDER
    assert all({order[position] for order in ORDERS[:4]} == set(OPTIONS) for position in range(4))
