"""Hard cases mining: which samples are hard, and the curriculum over the epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.answer import Answer, Mode, Unreadable, parse
from screening.task import OPTIONS, Dimension
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.judged import Judged
from trainer.records import Generated, Original, Sample
from trainer.training.hard_cases.cases import Cases, HardCasesError, find_cases
from trainer.training.hard_cases.curriculum import Part, epoch_sizes, make_curriculum

# The sizes of the paper's training set for the 2B model.
PAPER = Cases(tuple(f"s{n}" for n in range(1044)), tuple(f"s{n}" for n in range(434)))


def sample(name: str, label: str) -> Sample:
    pictures = tuple(
        Generated(
            file=f"{option}.jpg",
            option=option,
            usable=option in label,
            dimensions=frozenset() if option in label else frozenset({Dimension.SHADOW}),
            severity=0 if option in label else 1,
        )
        for option in OPTIONS
    )
    return Sample(id=name, product="p", original=Original(file="o.jpg"), generated=pictures, label=label)


def prediction(truth: Sample, text: str) -> Prediction:
    result: Answer | Unreadable = parse(text, Mode.COT)
    return Prediction.of(
        Judged(truth, result), text=text, finish="stop", confidence=0.5, prompt_tokens=1, completion_tokens=1
    )


def answered(truth: Sample, letters: str) -> Prediction:
    return prediction(truth, f"<think>x</think><answer>{letters}</answer>")


def test_a_case_is_hard_if_the_evaluation_calls_its_answer_wrong() -> None:
    truths = {
        "subset": ("AC", "A", False),  # one good option is enough
        "exact": ("AC", "AC", False),
        "one wrong": ("AC", "AB", True),
        "missed none": ("N", "A", True),
        "found none": ("N", "N", False),
        "gave up": ("AC", "N", True),
        "unreadable": ("AC", "E", True),
    }
    samples = [sample(name, label) for name, (label, _, _) in truths.items()]
    predictions = [answered(truth, truths[truth.id][1]) for truth in samples]
    cases = find_cases(samples, predictions)
    assert cases.all == tuple(truths)
    assert cases.hard == tuple(name for name, (_, _, hard) in truths.items() if hard)
    assert cases.easy == tuple(name for name, (_, _, hard) in truths.items() if not hard)


def test_text_without_an_answer_is_hard() -> None:
    truth = sample("s", "A")
    assert find_cases([truth], [prediction(truth, "<think>cut")]).hard == ("s",)


def test_cases_follow_the_samples_not_the_predictions() -> None:
    samples = [sample(f"s{n}", "A") for n in range(20)]
    predictions = [answered(truth, "B" if number % 3 else "A") for number, truth in enumerate(samples)]
    assert find_cases(samples, predictions) == find_cases(samples, reversed(predictions))
    # A part of the set needs only its own predictions; others are ignored.
    assert find_cases(samples[:5], predictions) == find_cases(samples[:5], predictions[:5])


def test_the_last_of_several_predictions_counts() -> None:
    truth = sample("s", "A")
    assert not find_cases([truth], [answered(truth, "B"), answered(truth, "A")]).hard


def test_the_paper_curriculum_has_three_full_epochs_and_two_with_the_hard_cases_again() -> None:
    curriculum = make_curriculum(PAPER)
    assert [len(epoch) for epoch in curriculum.epochs] == [1044, 1044, 1044, 1478, 1478]
    for epoch in curriculum.epochs[:3]:
        assert Counter(epoch) == Counter(PAPER.all)
    for epoch in curriculum.epochs[3:]:
        assert Counter(epoch) == Counter(PAPER.all) + Counter(PAPER.hard)
    assert len(curriculum.ids) == 6088  # 3 * 1044 + 2 * (1044 + 434)
    assert curriculum.ids[3 * 1044 : 3 * 1044 + 1478] == list(curriculum.epochs[3])


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        (["hard"], 434),
        (["easy"], 610),
        (["all"], 1044),
        (["all", "random"], 1044 + 434),
        (["all", "hard"], 1044 + 434),
        (["hard", "easy"], 1044),
    ],
)
def test_the_variants_of_table_7(parts: Sequence[Part], size: int) -> None:
    curriculum = make_curriculum(PAPER, last_parts=parts)
    assert [len(epoch) for epoch in curriculum.epochs] == [1044] * 3 + [size] * 2
    assert [len(epoch) for epoch in curriculum.epochs] == epoch_sizes(1044, 434, last_parts=parts)
    # The first epochs do not depend on last_parts, so variants differ in their last epochs only.
    assert curriculum.epochs[:3] == make_curriculum(PAPER).epochs[:3]


def test_without_last_parts_training_ends_after_the_first_epochs() -> None:
    assert make_curriculum(PAPER, last_parts=[]).epochs == make_curriculum(PAPER).epochs[:3]
    assert epoch_sizes(1044, 434, last_parts=[]) == [1044] * 3
    assert make_curriculum(PAPER, last_epochs=0).epochs == make_curriculum(PAPER).epochs[:3]


def test_the_random_samples_are_distinct_and_the_same_in_both_epochs() -> None:
    curriculum = make_curriculum(PAPER, last_parts=["random"])
    assert Counter(curriculum.epochs[3]) == Counter(curriculum.epochs[4])
    assert max(Counter(curriculum.epochs[3]).values()) == 1
    # The samples are drawn from all: the chance of drawing exactly the 434 hard ones is about 1 in 10 to the 300.
    assert not set(curriculum.epochs[3]) <= set(PAPER.hard)
    assert not set(curriculum.epochs[3]) <= set(PAPER.easy)


def test_each_epoch_has_its_own_order_and_mixes_the_hard_cases_in() -> None:
    curriculum = make_curriculum(PAPER)
    assert len({epoch[:20] for epoch in curriculum.epochs}) == 5
    assert curriculum.epochs[0] != PAPER.all
    twice = {name for name, times in Counter(curriculum.epochs[3]).items() if times == 2}
    last = [position for position, name in enumerate(curriculum.epochs[3]) if name in twice]
    halves = sum(position < 739 for position in last), sum(position >= 739 for position in last)
    assert min(halves) > 350  # half of 868 would be 434; with a block of hard cases at the end it would be 200


def test_a_curriculum_is_decided_by_its_seed_alone() -> None:
    one = make_curriculum(PAPER, last_parts=["all", "random"], seed=7)
    assert one == make_curriculum(PAPER, last_parts=["all", "random"], seed=7)
    other = make_curriculum(PAPER, last_parts=["all", "random"], seed=8)
    assert all(a != b for a, b in zip(one.epochs, other.epochs, strict=True))
    assert Counter(one.epochs[3]) != Counter(other.epochs[3])


def test_the_order_is_the_same_on_every_machine() -> None:
    """A fixed expectation: if it changed, a killed run would continue in another order than it started with."""
    small = Cases(("a", "b", "c", "d", "e"), ("b", "d"))
    curriculum = make_curriculum(small, epochs=1, last_epochs=1, last_parts=["hard", "random"], seed=3)
    assert curriculum.epochs == (("d", "c", "b", "a", "e"), ("d", "c", "b", "a"))


def test_an_empty_epoch_is_refused() -> None:
    perfect = Cases(("a", "b"), ())
    with pytest.raises(HardCasesError, match="an epoch would be empty"):
        make_curriculum(perfect, last_parts=["hard"])
    assert len(make_curriculum(perfect).ids) == 10  # nothing is hard: the full set five times
    with pytest.raises(HardCasesError, match="an epoch would be empty"):
        make_curriculum(Cases((), ()))
    with pytest.raises(HardCasesError, match="an epoch would be empty"):
        make_curriculum(PAPER, epochs=0, last_parts=[])


@pytest.mark.slow
@given(
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 4),
    st.integers(0, 3),
    st.lists(st.sampled_from(["all", "hard", "easy", "random"]), max_size=3),
    st.integers(),
)
def test_predicted_sizes_equal_the_real_ones(size, hard, epochs, last_epochs, parts, seed) -> None:
    hard = min(hard, size)
    ids = tuple(f"s{n}" for n in range(size))
    settings = {"epochs": epochs, "last_epochs": last_epochs, "last_parts": parts}
    sizes = epoch_sizes(size, hard, **settings)
    if not sizes or not all(sizes):
        with pytest.raises(HardCasesError):
            make_curriculum(Cases(ids, ids[:hard]), seed=seed, **settings)
        return
    curriculum = make_curriculum(Cases(ids, ids[:hard]), seed=seed, **settings)
    assert [len(epoch) for epoch in curriculum.epochs] == sizes
    assert set(curriculum.ids) <= set(ids)
