"""Samples: determinism, labels, words, and that planted defects are where the labels say."""

import re
from collections import Counter

import numpy as np
import pytest

from screening.answer import Mode, parse, render
from screening.task import Dimension
from trainer.data.render.defect_kinds import KINDS
from trainer.data.render.defects import plan_defects
from trainer.data.render.light import Body, Light, cast
from trainer.data.render.palette import COLOURS, changed, distance
from trainer.data.render.photo_kinds import PHOTO_KINDS
from trainer.data.render.picture import draw_generated, draw_original
from trainer.data.render.products import make_product
from trainer.data.render.sample import USABLE_COUNTS, make_sample
from trainer.data.render.scenes import SETTINGS, draw_background
from trainer.data.render.words import NORMAL_COMMENT


def _pixels(shot):
    return np.asarray(shot.image, np.float32)


def _product_that(wanted):
    return next(p for p in (make_product(np.random.default_rng(i)) for i in range(500)) if wanted(p))


def test_same_seed_gives_the_same_pixels_and_words():
    one, other = make_sample(7, 96), make_sample(7, 96)
    assert one.answer() == other.answer()
    for a, b in zip((one.original, *one.generated), (other.original, *other.generated), strict=True):
        assert a.image.tobytes() == b.image.tobytes()
        assert a.caption == b.caption


def test_size_changes_the_resolution_only():
    small, large = make_sample(11, 96), make_sample(11, 192)
    assert small.answer() == large.answer()
    for a, b in zip((small.original, *small.generated), (large.original, *large.generated), strict=True):
        assert a.image.size == (96, 96) and b.image.size == (192, 192)
        difference = np.abs(_pixels(a) - np.asarray(b.image.resize((96, 96)), np.float32)).mean()
        assert difference < 8


def test_different_seeds_give_different_products():
    assert len({make_product(np.random.default_rng(i)).id for i in range(50)}) == 50


@pytest.mark.slow
def test_a_picture_is_usable_exactly_when_it_has_no_defect():
    for seed in range(20):
        sample = make_sample(seed, 64)
        clean = {o for o, shot in zip("ABCD", sample.generated, strict=True) if not shot.defects}
        assert sample.options == clean
        assert sample.label == ("".join(sorted(clean)) or "N")


def test_mean_answer_length_gives_the_papers_random_baseline():
    mean = sum(max(1, n) * share for n, share in enumerate(USABLE_COUNTS))
    assert sum(USABLE_COUNTS) == pytest.approx(1)
    assert mean / 5 == pytest.approx(0.34, abs=0.005)


@pytest.mark.slow
def test_the_reasoning_survives_the_grammar():
    for seed in range(20):
        answer = make_sample(seed, 64).answer()
        assert parse(render(answer, Mode.COT), Mode.COT) == answer


@pytest.mark.slow
def test_findings_name_the_planted_dimensions():
    for seed in range(20):
        sample = make_sample(seed, 64)
        for finding, shot in zip(sample.answer().findings, sample.generated, strict=True):
            assert finding.dimensions == {d.dimension for d in shot.defects}
            assert (finding.comment == NORMAL_COMMENT) == shot.usable


def test_comments_are_short_and_plain():
    for kind in KINDS.values():
        assert len(kind.comment.split()) <= 8
        assert re.fullmatch(r"[a-z ]+", kind.comment)
    assert len({k.comment for k in KINDS.values()}) == len(KINDS)


def test_describe_reads_as_english():
    bottle = _product_that(lambda p: p.attributes["kind"] == "bottle" and p.attributes["stripes"] == "none")
    a = bottle.attributes
    pattern = rf"an? {a['body']} bottle with an? {a['cap']} cap, an? {a['mark_colour']} {a['mark']} and the number \d\d"
    assert re.fullmatch(pattern, bottle.describe())


def test_all_kinds_of_packaging_and_settings_can_be_drawn():
    kinds = {make_product(np.random.default_rng(i)).attributes["kind"] for i in range(200)}
    assert len(kinds) >= 9 and len(SETTINGS) >= 12
    for kind in kinds:
        product = _product_that(lambda p, kind=kind: p.attributes["kind"] == kind)
        assert draw_original(product, np.random.default_rng(0), 64).image.getextrema() != ((255, 255),) * 3
    product = make_product(np.random.default_rng(1))
    for name in SETTINGS:
        shot = draw_generated(product, np.random.default_rng(2), 64, setting=name)
        assert shot.setting == name and SETTINGS[name].phrase in shot.caption


@pytest.mark.parametrize("name", [name for name in KINDS if name not in PHOTO_KINDS])
def test_every_kind_of_defect_changes_the_picture_and_the_truth(name):
    kind = KINDS[name]
    setting = "plinth" if name == "overhang" else "concrete"
    for seed in range(40):
        product = make_product(np.random.default_rng(seed))
        for severity in kind.severities:
            try:
                shot = draw_generated(product, np.random.default_rng(3), 96, [(name, severity)], setting=setting)
            except ValueError:
                break  # this kind does not fit this product
            (defect,) = shot.defects
            assert (defect.kind, defect.severity, defect.dimension) == (name, severity, kind.dimension)
            assert (defect.comment in shot.caption) == (kind.dimension is not Dimension.APPEARANCE)
            plain = draw_generated(product, np.random.default_rng(3), 96, setting=setting)
            assert np.abs(_pixels(shot) - _pixels(plain)).max() > 40
        else:
            return
    pytest.fail(f"no product takes {name}")


@pytest.mark.slow
def test_a_variation_says_of_every_attribute_whether_it_changed():
    changes = Counter()
    for seed in range(60):
        product = make_product(np.random.default_rng(seed))
        shot = draw_generated(product, np.random.default_rng(seed), 32, varied=True)
        names = [d.changed for d in shot.defects]
        assert len(set(names)) == len(names), "each attribute once"
        changes.update(names)
        for name in ("body", "cap", "mark", "mark_colour", "number", "stripes"):
            if name not in names:
                assert shot.attributes.get(name) == product.attributes.get(name)
        for name in {"mark", "number"} & set(names):
            assert shot.attributes.get(name) != product.attributes.get(name)
        assert ("width" in names) == (abs(shot.measures["width"] / product.measures(product.look)["width"] - 1) > 0.05)
    assert set(changes) == {"body", "cap", "cap_shape", "mark", "mark_colour", "number", "stripes", "width"}
    assert all(8 <= changes[name] <= 40 for name in ("body", "number", "width", "mark")), "each about four times in ten"


def test_captions_describe_the_drawing_and_not_the_intention():
    product = _product_that(lambda p: p.attributes["kind"] == "jar")
    shot = draw_generated(product, np.random.default_rng(0), 64, [("cap_missing", 3)])
    assert " cap" in product.describe() and " cap" not in shot.caption
    assert shot.defects[0].changed == "cap"


def test_a_changed_number_keeps_one_digit_only_when_subtle():
    product = make_product(np.random.default_rng(5))
    for severity, kept in ((1, 1), (2, 0), (3, 0)):
        shot = draw_generated(product, np.random.default_rng(severity), 64, [("number", severity)])
        pairs = zip(product.attributes["number"], shot.attributes["number"], strict=True)
        assert sum(a == b for a, b in pairs) == kept


def test_severity_orders_changes_of_colour():
    rng = np.random.default_rng(0)
    for rgb in COLOURS.values():
        subtle, clear, obvious = (distance(rgb, changed(rng, rgb, s, [])) for s in (1, 2, 3))
        assert 20 < subtle < clear < obvious


@pytest.mark.parametrize("side", [-1, 1])
def test_a_shadow_falls_away_from_the_light_and_away_from_the_camera(side):
    heights = np.linspace(0, 0.4, 20, dtype=np.float32)
    body = Body(0.5, 0.8, heights, np.full(20, 0.1, np.float32), np.zeros(20, np.float32))
    mask = cast(90, body, Light(side, angle=35, length=0.8))
    ys, xs = np.nonzero(mask > 0.4)
    assert (xs.mean() / 90 - 0.5) * side < -0.05
    assert ys.mean() / 90 < 0.8
    # Its axis ends 0.4 * 0.8 * cos 35 = 0.26 to the side.
    assert abs(xs - 45).max() / 90 == pytest.approx(0.26, abs=0.05)


def test_a_lifted_body_throws_its_shadow_apart_from_its_foot():
    heights = np.linspace(0.15, 0.5, 20, dtype=np.float32)
    body = Body(0.5, 0.9, heights, np.full(20, 0.05, np.float32), np.zeros(20, np.float32), lift=0.15)
    mask = cast(90, body, Light(-1, angle=35, length=0.8))
    assert mask[78:81, 44:46].max() < 0.2 < mask.max()


def test_an_impossible_plan_is_refused():
    product = make_product(np.random.default_rng(0))
    with pytest.raises(ValueError, match="severity 4"):
        draw_generated(product, np.random.default_rng(0), 64, [(Dimension.SHADOW, 4)])
    with pytest.raises(ValueError, match="at most once"):
        draw_generated(product, np.random.default_rng(0), 64, [(Dimension.SHADOW, 1), (Dimension.SHADOW, 2)])


def test_plans_follow_their_weights():
    rng = np.random.default_rng(0)
    plans = [plan_defects(rng, False, (1.0, 0.0, 0.0)) for _ in range(3000)]
    assert plan_defects(rng, True) == []
    assert all(s == 1 for plan in plans for _, s in plan)
    firsts = Counter(plan[0][0] for plan in plans)
    assert firsts[Dimension.APPEARANCE] / 3000 == pytest.approx(0.4, abs=0.04)
    assert sum(len(plan) == 2 for plan in plans) / 3000 == pytest.approx(0.12, abs=0.03)
    assert not any({d for d, _ in plan} == {Dimension.SHADOW, Dimension.LAYOUT} for plan in plans)
    only = [plan_defects(rng, False, (0, 0, 1), {Dimension.LAYOUT: 1.0}) for _ in range(20)]
    assert only == [[(Dimension.LAYOUT, 3)]] * 20


def test_kinds_of_defects_follow_their_weights():
    def kinds(weights):
        rng = np.random.default_rng(0)
        plans = [[(Dimension.LAYOUT, 2)]] * 120
        shots = [draw_generated(make_product(rng), rng, 24, plan, kind_weights=weights) for plan in plans]
        return Counter(shot.defects[0].kind for shot in shots)

    equal, weighted = kinds(None), kinds({"leaning": 8.0})
    assert set(weighted) == set(equal)  # the others still occur
    assert equal["leaning"] / 120 < 0.55  # two or three others fit a picture
    assert weighted["leaning"] / 120 == pytest.approx(0.77, abs=0.1)  # 8 in 10, or 8 in 11


def test_products_are_at_least_55_percent_of_the_frame_high():
    from trainer.data.render.figure import flat_sprite, placed
    from trainer.data.render.light import draw_light
    from trainer.data.render.staging import Staging

    for seed in range(200):
        rng = np.random.default_rng(seed)
        product, light = make_product(rng), draw_light(rng)
        staging = Staging(product, product.look, light, light, [(light, 1.0)], staged=bool(seed % 2))
        place = placed(staging, flat_sprite(product, product.look, 96), seed % 3 - 1, rng, 96)
        assert place.height >= 0.55 and place.y - place.height > 0


def test_every_setting_has_its_own_ground():
    means = {
        name: np.asarray(draw_background(s, np.random.default_rng(0), 64, Light(1))[0], np.float32)[40:].std()
        for name, s in SETTINGS.items()
    }
    assert all(0 < value < 90 for value in means.values())
