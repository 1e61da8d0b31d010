"""The label that follows from reviews."""

from __future__ import annotations

import pytest

from service.review.consensus import Verdict, Verdicts, consensus_of


def review(letters: str, **bad: dict[str, int]) -> Verdicts:
    """Verdicts that call these letters usable; keywords name what is wrong with others."""
    a, b, c, d = (
        Verdict(one in letters, bad.get(one, {} if one in letters else {"physical_shadow": 2})) for one in "ABCD"
    )
    return a, b, c, d


@pytest.mark.parametrize(
    ("reviews", "required", "letters", "decided"),
    [
        ([], 1, None, None),
        (["AC"], 1, "AC", "one"),
        ([""], 1, "N", "one"),
        (["AC"], 2, None, None),
        (["AC", "AC"], 2, "AC", "agreed"),
        (["AC", "A"], 2, None, None),
        (["AC", "A"], 1, None, None),  # late work that differs needs a third person, too
        (["AC", "A", "A"], 2, "A", "adjudicated"),
        (["A", "B", "C"], 2, "N", "adjudicated"),
        (["AB", "BC", "CA"], 2, "ABC", "adjudicated"),
        (["AB", "AB", "A", "A"], 2, "A", "adjudicated"),  # a tie is not usable
    ],
)
def test_the_majority_decides_for_each_picture(reviews, required, letters, decided) -> None:
    found = consensus_of([review(one) for one in reviews], required)
    assert (found and found.letters, found and found.decided) == (letters, decided)


def test_dimensions_are_those_that_half_of_the_agreeing_people_name() -> None:
    shadow, layout, both = (
        {"physical_shadow": 1},
        {"placement_layout": 3},
        {"physical_shadow": 3, "placement_layout": 2},
    )
    found = consensus_of([review("BCD", A=shadow), review("ABCD"), review("BCD", A=both)], 2)
    assert found.verdicts[0] == {"usable": False, "dimensions": {"physical_shadow": 3, "placement_layout": 2},
                                 "comment": None}  # fmt: skip
    found = consensus_of([review("BCD", A=shadow), review("BCD", A=shadow), review("BCD", A=layout)], 2)
    assert found.verdicts[0]["dimensions"] == {"physical_shadow": 1}
    three = [review("BCD", A={name: 2}) for name in ("physical_shadow", "placement_layout", "extension_rationality")]
    assert len(consensus_of(three, 2).verdicts[0]["dimensions"]) == 3, "all are kept if none is named by half"
