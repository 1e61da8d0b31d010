"""Scores, compared with numbers calculated by hand, the paper's among them."""

from __future__ import annotations

import random
from itertools import count
from math import isclose

import pytest

from screening.answer import Answer, Finding, Reason, Unreadable
from screening.intervals import wilson
from screening.task import OPTIONS, Dimension, options_text
from trainer.judged import Judged, correct
from trainer.metrics import balance, evaluate_scores, none_class, random_baseline, score, weighted_score
from trainer.picture_verdicts import picture_verdicts
from trainer.products import counted, effective_samples, repeated
from trainer.records import Defect, Generated, Original, Sample
from trainer.shares import share, share_by_product

APPEARANCE, SHADOW, LAYOUT, EXTENSION = Dimension
NUMBERS = count()
CUT = Unreadable(Reason.NO_ANSWER, "cut")


def options(text: str) -> frozenset[str]:
    return frozenset(text) - {"N"}


def sample(*pictures: tuple[tuple[Dimension, str, int], ...]) -> Sample:
    """A sample of four pictures of its own product, each with its (dimension, kind, severity) defects."""
    shown = tuple(
        Generated(
            file=f"{option}.jpg",
            option=option,
            usable=not defects,
            dimensions=frozenset(dimension for dimension, _, _ in defects),
            severity=max((severity for _, _, severity in defects), default=0),
            defects=tuple(Defect(dimension=d, kind=kind, severity=s, comment="x") for d, kind, s in defects),
        )
        for option, defects in zip(OPTIONS, pictures, strict=True)
    )
    label = options_text(picture.option for picture in shown if picture.usable)
    return Sample(id="s", product=f"p{next(NUMBERS)}", original=Original(file="o.jpg"), generated=shown, label=label)


def labelled(label: str) -> Sample:
    """A sample whose pictures outside the label have the wrong shadow."""
    return sample(*(() if option in label else ((SHADOW, "direction", 2),) for option in OPTIONS))


def answered(label: str, answer: str | Unreadable, choice: str | None = None) -> Judged:
    result = answer if isinstance(answer, Unreadable) else Answer(options(answer))
    return Judged(labelled(label), result, choice)


def said(truth: Sample, answer: str, **verdicts: frozenset[Dimension] | None) -> Judged:
    findings = tuple(Finding(option, dimensions, "x") for option, dimensions in verdicts.items())
    return Judged(truth, Answer(options(answer), "…", findings), None)


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("A", "ABC", True),  # one good option is enough
        ("AC", "ABC", True),
        ("ABC", "ABC", True),
        ("AD", "ABC", False),  # every option must be in the label
        ("N", "ABC", False),
        ("N", "N", True),
        ("A", "N", False),
        ("ABCD", "ABCD", True),
        ("ABCD", "A", False),
    ],
)
def test_an_answer_is_correct_if_every_option_is_in_the_label(answer: str, label: str, expected: bool) -> None:
    assert correct(options(answer), options(label)) is expected


@pytest.mark.parametrize("label", ["N", "A", "ABCD"])
def test_an_unreadable_answer_is_never_correct(label: str) -> None:
    assert correct(None, options(label)) is False


def test_random_baseline_of_the_paper() -> None:
    # 468 test samples whose labels have 802 letters, N counting as one: 802 / 468 = 1.7137, a fifth of it is 34.27 %.
    labels = ["N"] * 120 + ["B"] * 148 + ["AC"] * 100 + ["ABD"] * 66 + ["ABCD"] * 34
    assert len(labels) == 468
    baseline = random_baseline([options(label) for label in labels])
    assert baseline is not None
    assert round(baseline, 2) == 34.27


def test_random_baseline_needs_labels() -> None:
    assert random_baseline([]) is None


def test_a_share_of_nothing_has_no_percentage() -> None:
    assert share(0, 0).percent is None


def test_score_and_baseline_of_four_samples() -> None:
    judged = [answered("AB", "A"), answered("N", "N"), answered("C", "CD"), answered("ABC", CUT)]
    result = score(judged)
    assert (result.correct.hits, result.correct.n, result.correct.percent) == (2, 4, 50.0)
    assert result.baseline == pytest.approx(100 * (2 + 1 + 1 + 3) / 4 / 5)


def test_a_dimension_is_scored_over_the_samples_that_show_it() -> None:
    shadow = sample((), (), ((SHADOW, "direction", 1),), ((SHADOW, "direction", 3),))
    both = sample(((LAYOUT, "floating", 2), (SHADOW, "missing", 2)), ((LAYOUT, "sunk", 1),), (), ())
    clean = sample((), (), (), ())
    judged = [said(shadow, "AB"), said(both, "A"), said(clean, "D")]
    scores = evaluate_scores(judged)
    assert (scores.overall.correct.hits, scores.overall.correct.n) == (2, 3)
    found = {dimension: (one.correct.hits, one.correct.n) for dimension, one in scores.dimensions.items()}
    assert found == {APPEARANCE: (0, 0), SHADOW: (1, 2), LAYOUT: (0, 1), EXTENSION: (0, 0)}
    assert scores.dimensions[SHADOW].baseline == pytest.approx(100 * (2 + 2) / 2 / 5)
    assert scores.dimensions[APPEARANCE].baseline is None


def test_exact_match_and_choice_are_counted_apart_from_the_score() -> None:
    # The choice of the service may be right although the whole answer is not.
    judged = [answered("AC", "AC", "C"), answered("AC", "A", "A"), answered("A", "AB", "A"), answered("N", "N", "N")]
    judged += [answered("A", CUT), answered("N", "A", "A")]
    scores = evaluate_scores(judged)
    assert scores.overall.correct.hits == 3
    assert scores.metrics["exact_match"].hits == 2
    assert scores.choice.hits == 4


def test_none_is_scored_as_a_class_and_an_unreadable_answer_does_not_count_as_none() -> None:
    judged = [answered("N", "N"), answered("N", "N"), answered("N", "A"), answered("N", CUT), answered("AB", "N")]
    judged += [answered("A", "A")]
    result = none_class(judged)
    assert (result.precision.hits, result.precision.n) == (2, 3)
    assert (result.recall.hits, result.recall.n) == (2, 4)


def test_unreadable_answers_are_counted_by_reason() -> None:
    empty = Unreadable(Reason.EMPTY, "empty")
    scores = evaluate_scores([answered("A", CUT), answered("A", empty), answered("B", CUT), answered("B", "B")])
    assert (scores.unreadable.hits, scores.unreadable.percent) == (3, 75.0)
    assert {reason: one.hits for reason, one in scores.unreadable_reasons.items()} == {
        Reason.NO_ANSWER: 2,
        Reason.EMPTY: 1,
    }


def test_each_sample_spreads_one_vote_over_its_options() -> None:
    result = balance([answered("AB", "A"), answered("N", "AC"), answered("D", CUT), answered("D", "N")])
    assert result.answers == pytest.approx({"A": 50, "B": 0, "C": 100 / 6, "D": 0, "N": 100 / 3})
    assert result.labels == pytest.approx({"A": 12.5, "B": 12.5, "C": 0, "D": 50, "N": 25})
    assert result.distance == pytest.approx((37.5 + 12.5 + 100 / 6 + 50 + (100 / 3 - 25)) / 2)


def test_a_model_that_always_says_a_is_far_from_balanced() -> None:
    always = balance([answered(label, "A") for label in ("A", "B", "C", "D", "N")])
    fair = balance([answered(label, label) for label in ("A", "B", "C", "D", "N")])
    assert always.distance == pytest.approx(80)
    assert fair.distance == pytest.approx(0)


def test_without_readable_answers_the_balance_is_undefined() -> None:
    assert balance([answered("A", CUT)]).distance is None


def test_verdicts_of_pictures_by_dimension_severity_and_kind() -> None:
    truth = sample(
        (),
        ((APPEARANCE, "digit", 1),),
        ((APPEARANCE, "shade", 3), (SHADOW, "missing", 2)),
        ((APPEARANCE, "digit", 3),),
    )
    judged = [
        # A normal and called so; B missed; C half seen; D seen and taken for layout as well.
        said(
            truth,
            "AB",
            A=frozenset(),
            B=frozenset(),
            C=frozenset({APPEARANCE}),
            D=frozenset({APPEARANCE, LAYOUT}),
        ),
        # A false alarm; B seen; C passed over; D without a verdict that we know.
        said(truth, "N", A=frozenset({SHADOW}), B=frozenset({APPEARANCE}), D=None),
        Judged(truth, CUT),
    ]
    result = picture_verdicts(judged)
    assert (result.stated.hits, result.stated.n) == (6, 12)
    assert (result.exact.hits, result.exact.n) == (2, 12)
    assert (result.normal_recognised.hits, result.normal_recognised.n) == (1, 3)
    assert (result.false_alarms.hits, result.false_alarms.n) == (1, 3)
    assert (result.normal_held_back.hits, result.normal_held_back.n) == (2, 3)

    appearance = result.dimensions[APPEARANCE]
    assert (appearance.all.named.hits, appearance.all.named.n) == (3, 9)
    assert (appearance.all.held_back.hits, appearance.all.held_back.n) == (8, 9)
    assert {s: (v.named.hits, v.named.n) for s, v in appearance.by_severity.items()} == {1: (1, 3), 3: (2, 6)}
    assert (appearance.precision.hits, appearance.precision.n) == (3, 3)
    assert (appearance.false_alarms.hits, appearance.false_alarms.n) == (0, 3)

    shadow = result.dimensions[SHADOW]
    assert {s: (v.named.hits, v.named.n) for s, v in shadow.by_severity.items()} == {2: (0, 3)}
    assert (shadow.false_alarms.hits, shadow.precision.hits, shadow.precision.n) == (1, 0, 1)

    # Named where it is not, in a picture that is not normal: no false alarm, but a matter of precision.
    layout = result.dimensions[LAYOUT]
    assert (layout.all.named.n, layout.false_alarms.hits, layout.precision.hits, layout.precision.n) == (0, 0, 0, 1)

    kinds = {kind: (one.named.hits, one.named.n, one.held_back.hits) for kind, one in result.kinds.items()}
    assert kinds == {
        "appearance_deformation/digit": (2, 6, 5),
        "appearance_deformation/shade": (1, 3, 3),
        "physical_shadow/missing": (0, 3, 3),
    }


def test_two_defects_of_one_kind_in_a_picture_are_one_picture() -> None:
    truth = sample(((EXTENSION, "ribbon", 1), (EXTENSION, "ribbon", 2)), (), (), ())
    result = picture_verdicts([said(truth, "B", A=frozenset({EXTENSION}))])
    assert result.kinds["extension_rationality/ribbon"].named.n == 1
    assert list(result.dimensions[EXTENSION].by_severity) == [2]


def test_a_weighted_score_by_hand() -> None:
    given = [(10.0, "A"), (10.0, "A"), (1.0, "B"), (1.0, "B"), (1.0, "A"), (1.0, "B")]  # B is wrong
    judged = [
        Judged(labelled("A").model_copy(update={"weight": weight}), Answer(options(said))) for weight, said in given
    ]
    found = weighted_score(judged)
    assert found is not None and found.percent == pytest.approx(100 * 21 / 24)
    p = 21 / 24
    variance = (2 * (10 * (1 - p)) ** 2 + (1 - p) ** 2 + 3 * p**2) / 24**2 * 6 / 5
    assert found.effective == pytest.approx(min(6, p * (1 - p) / variance))
    assert (found.low, found.high) == pytest.approx([100 * x for x in wilson(p * found.effective, found.effective)])
    assert weighted_score([answered("A", "A"), answered("A", "B")]) is None


def test_weighted_intervals_cover_the_truth_of_a_biased_queue_and_plain_ones_do_not() -> None:
    draw, weighted, plain = random.Random(0), 0, 0
    population = [draw.random() < 0.8 for _ in range(4000)]
    truth = 100 * sum(population) / len(population)
    # Wrong answers are contested more often.
    inclusions = {True: 0.05, False: 0.15}
    judged = [
        Judged(
            labelled("A").model_copy(update={"weight": 1 / inclusions[right]}), Answer(options("A" if right else "B"))
        )
        for right in population
    ]
    for _ in range(80):
        queue = [one for one, right in zip(judged, population, strict=True) if draw.random() < inclusions[right]]
        estimate = weighted_score(queue)
        assert estimate is not None
        weighted += estimate.low <= truth <= estimate.high
        naive = score(queue).correct
        plain += naive.low <= truth <= naive.high  # type: ignore[operator]
    assert 72 <= weighted <= 79 and plain == 0


def of_product(one: Judged, product: str) -> Judged:
    return Judged(one.sample.model_copy(update={"product": product}), one.result, one.choice)


def eight_questions(right: str, wrong: str) -> list[Judged]:
    """Eight questions about each product, one letter each; all eight answers about a product are right or all wrong."""
    return [of_product(answered("A", "A" if name in right else "B"), name) for name in right + wrong for _ in range(8)]


def test_the_effective_number_by_hand() -> None:
    # p = 4/6. Sums of y - p per product: x 2/3, y -1/3, z -1/3. V = 3/2 · (4/9 + 1/9 + 1/9) / 36 = 1/36.
    values, products = [1, 1, 1, 0, 1, 0], list("xxyyzz")
    assert effective_samples(values, products) == pytest.approx(6.0), "1 + (2/9) / (1/36) is 9, but there are 6 samples"
    # p = 3/6. Sums: x 1, y 0, z -1. V = 3/2 · 2 / 36 = 1/12.
    assert effective_samples([1, 1, 1, 0, 0, 0], products) == pytest.approx(1 + 0.25 * 12)
    # Sums with products of unequal size: x 3/2, y -3/2. V = 2 · (9/4 + 9/4) / 36 = 1/4.
    assert effective_samples([1, 1, 1, 0, 0, 0], list("xxxyyy")) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="2 values for 1 products"):
        effective_samples([1, 0], ["x"])


@pytest.mark.parametrize("hits", [0, 1, 30, 59, 60])
def test_samples_of_different_products_are_independent(hits: int) -> None:
    answers = [number < hits for number in range(60)]
    assert effective_samples(answers, range(60)) == 60
    assert share_by_product(answers, range(60), 0.9) == share(hits, 60, 0.9)


def test_answers_that_agree_within_a_product_say_as_much_as_the_products() -> None:
    found = score(eight_questions("abcdefghijklmn", "opqrst")).correct
    alone = share(14, 20)
    assert (found.hits, found.n, found.percent) == (112, 160, alone.percent)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_where_all_answers_are_right_a_product_counts_once() -> None:
    found, alone = score(eight_questions("abcdefghij", "")).correct, share(10, 10)
    assert (found.low, found.high) == pytest.approx((alone.low, 100.0))
    # 5² / (4² + 1²) for products of four and one.
    assert effective_samples([1] * 5, list("xxxxy")) == pytest.approx(25 / 17)
    assert effective_samples([1, 0, 1], list("xxx")) == 1


def test_answers_that_differ_within_a_product_as_much_as_between_products_lose_nothing() -> None:
    draw = random.Random(0)
    answers = [draw.random() < 0.7 for _ in range(4000)]
    products = [number // 8 for number in range(4000)]
    assert 3500 < effective_samples(answers, products) <= 4000
    assert effective_samples([True, False] * 8, [number // 2 for number in range(16)]) == 16


def test_every_interval_of_an_evaluation_respects_products() -> None:
    apart = [answered("A", said) for said in "AAAB"]
    names = "wxyz"
    together = [of_product(one, name) for one, name in zip(apart, names, strict=True) for _ in range(8)]
    few, many = evaluate_scores(apart), evaluate_scores(together)
    for one, other in [
        (few.overall.correct, many.overall.correct),
        (few.dimensions[SHADOW].correct, many.dimensions[SHADOW].correct),
        (few.metrics["exact_match"], many.metrics["exact_match"]),
        (few.unreadable, many.unreadable),
    ]:
        assert (other.hits, other.n) == (8 * one.hits, 8 * one.n)
        assert (other.low, other.high) == pytest.approx((one.low, one.high))
    wide, plain = many.pictures.normal_held_back, share(8, 32)
    assert (wide.hits, wide.n) == (8, 32)
    assert wide.low is not None and plain.low is not None and wide.low < plain.low


def test_a_weighted_score_respects_products() -> None:
    given = [(4.0, "A"), (1.0, "B"), (2.0, "A"), (1.0, "A"), (3.0, "B")]  # B is wrong
    apart = [Judged(labelled("A").model_copy(update={"weight": w}), Answer(options(said))) for w, said in given]
    together = [of_product(one, str(number)) for number, one in enumerate(apart) for _ in range(8)]
    few, many = weighted_score(apart), weighted_score(together)
    assert few is not None and many is not None
    assert many.n == 40 and many.percent == pytest.approx(few.percent)
    assert many.effective == pytest.approx(p_over_variance(given))
    one_product = weighted_score([of_product(one, "x") for one in apart])
    assert one_product is not None and one_product.effective == pytest.approx(1)


def p_over_variance(given: list[tuple[float, str]]) -> float:
    """p (1 - p) / V of the products alone."""
    total = sum(weight for weight, _ in given)
    p = sum(weight for weight, said in given if said == "A") / total
    squares = sum((weight * ((said == "A") - p)) ** 2 for weight, said in given)
    return p * (1 - p) / (squares / total**2 * len(given) / (len(given) - 1))


def test_products_are_counted_only_where_they_repeat() -> None:
    assert repeated(["a", "b"]) is None and repeated(["a", "b", "a"]) == 2 and repeated([]) is None
    assert (counted(400, 50), counted(7, None)) == ("400 samples of 50 products", "7 samples")
    one = answered("A", "A")
    assert of_product(one, " tin ").product == "tin"
    assert of_product(one, "").product == "o.jpg", "the original stands for a product without a name"


def test_no_number_is_lost_on_the_way_to_json() -> None:
    scores = evaluate_scores([answered("AC", "A"), answered("N", CUT)], 0.9)
    assert type(scores).model_validate_json(scores.model_dump_json()) == scores
    assert scores.confidence_level == 0.9
    low = scores.overall.correct.low
    assert low is not None
    assert isclose(low, 100 * wilson(1, 2, 0.9)[0])


def test_a_picture_of_which_only_the_verdict_is_known_counts_for_no_dimension() -> None:
    files = [{"file": f"{option}.jpg"} for option in OPTIONS]
    bare = Sample.model_validate({"id": "s", "original": "o.jpg", "generated": files, "label": "A"})
    full = labelled("A")
    alone = evaluate_scores([said(full, "A", A=frozenset(), B=frozenset({SHADOW}))])
    both = evaluate_scores(
        [said(full, "A", A=frozenset(), B=frozenset({SHADOW})), said(bare, "A", B=frozenset({LAYOUT}))]
    )
    assert both.overall.correct.n == 2
    assert both.dimensions == alone.dimensions
    assert both.pictures.dimensions[SHADOW].precision == alone.pictures.dimensions[SHADOW].precision
    assert both.pictures.dimensions[LAYOUT].precision.n == 0
    assert both.pictures.exact.n == 5
    assert both.pictures.stated.n == 8
