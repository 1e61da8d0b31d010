"""A complete pretraining run: it writes a checkpoint, and a killed run ends with the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from screening.boxes import Box
from screening.checkpoint.directory import verify
from screening.prompt import COMPACT
from screening.runtime.digests import file_sha256
from screening.task import Dimension
from trainer.__main__ import main
from trainer.research.pretrain.batches import IGNORED, PixelBatcher
from trainer.research.pretrain.measurements import Recall, option_score
from trainer.research.pretrain.pool import Pool, PoolProduct, PoolShot
from trainer.research.pretrain.questions import (
    APPEARANCE,
    BOXES,
    COMPARED,
    DIMENSIONS,
    MEASURES,
    AnswerSheet,
    Questionnaire,
    questions,
)
from trainer.research.pretrain.scaffold import Heads, LossWeights, answer_loss, generated_only
from trainer.research.pretrain.stages import Read, See, Speak, Workshop, weights_of
from trainer.research.pretrain.tasks import Tasks
from trainer.training.number_format import pretraining_computes_in
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.recipe.recipe import load_recipe

pytestmark = pytest.mark.slow

EVEN = LossWeights(places=1, measures=1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recipe, smaller in every number."""
    settings = load_recipe("tiny").model_dump(mode="json")
    settings["architecture"] |= {"image_size": 64, "vision_width": 32, "vision_layers": 1}
    settings["architecture"] |= {"text_width": 32, "text_layers": 1, "text_mlp": 64}
    pretrain = settings["pretrain"]
    pretrain["pool"] |= {"products": 4, "usable_per_product": 4, "defective_per_product": 4, "held_out": 1}
    pretrain["pool"] |= {"variations_per_product": 2, "render_size": 64}
    for stage in ("see", "read", "speak"):
        pretrain[stage] |= {"steps": 4, "families_per_step": 2, "warmup_steps": 1}
    pretrain["speak"]["shares"] = dict.fromkeys(("read", "describe", "describe_all", "screen", "screen_direct"), 0.2)
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrain") / "pool"


def pretrain(recipe: Path, pool: Path, out: Path, *more: str) -> int:
    options = ["--recipe", str(recipe), "--pool", str(pool), "--out", str(out), "--workers", "1", *more]
    return main(["pretrain", *options, "--save-every", "2", "--no-compile"])


@pytest.fixture(scope="module")
def whole(recipe: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert pretrain(recipe, pool, out) == 0
    return out


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "moment", [*(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("see", "read", "speak")), "while saving"]
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    moment: str, recipe: Path, pool: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify(whole / "checkpoint")

    calls = 0

    def killing(limit: int, real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == limit:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if moment == "while saving":
            patch.setattr("torch.save", killing(4, torch.save))
        else:
            stage = {"see": See, "read": Read, "speak": Speak}[moment]
            patch.setattr(stage, "loss", killing(4, stage.loss))
        with pytest.raises(Killed):
            pretrain(recipe, pool, tmp_path / "killed")
    assert not (tmp_path / "killed" / "checkpoint").exists()
    assert pretrain(recipe, pool, tmp_path / "killed") == 0
    weights = [file_sha256(run / "checkpoint" / "model.safetensors") for run in (whole, tmp_path / "killed")]
    assert weights[0] == weights[1]
    logged = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    saved = [(record["stage"], record["step"]) for record in logged if "measured" in record]
    assert saved == [(stage, step) for stage in ("see", "read", "speak") for step in (2, 4)], "no step is logged twice"


def further_recipe(recipe: Path, directory: Path, **changes: object) -> Path:
    settings = {"extends": str(recipe), "name": "further", "pretrain": {"see": None}}
    settings["pretrain"]["pool"] = {"seed": 8}
    path = directory / "further.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def test_a_second_run_continues_from_the_checkpoint_of_the_first(
    recipe: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = whole / "checkpoint"
    further, out = further_recipe(recipe, tmp_path), tmp_path / "second"
    assert pretrain(further, tmp_path / "pool-2", out) == 2, "without --start there is nothing that sees"
    assert "--start" in capsys.readouterr().err
    assert pretrain(further, tmp_path / "pool-2", out, "--start", str(first)) == 0

    before, after = verify(first), verify(out / "checkpoint")
    assert (after.parent, after.name) == (before.digest, before.name)
    assert set(after.data) == {"pretrain", "pretrain further"}
    assert (out / "checkpoint" / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    stages = {json.loads(line)["stage"] for line in (out / "log.jsonl").read_text().splitlines()}
    assert stages == {"read", "speak"}

    assert pretrain(further, tmp_path / "pool-2", out, "--start", str(out / "checkpoint")) == 2
    assert "other settings" in capsys.readouterr().err
    for field, value in (("text_width", 64), ("vision_layers", 2), ("text_layers", 2)):
        other = further_recipe(recipe, tmp_path, architecture={field: value})
        assert pretrain(other, tmp_path / "pool-2", tmp_path / field, "--start", str(first)) == 2
        assert f"of the recipe's architecture: {field} is {value // 2}, not {value}" in capsys.readouterr().err


@pytest.mark.parametrize("unrelated", [True, False])
def test_see_looks_at_unrelated_pictures_or_compares_those_of_one_product(
    unrelated: bool, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Sequence[Sequence[PoolShot]]] = []
    pixels = Workshop.pixels

    def recording(shop: Workshop, shown: Sequence[Sequence[PoolShot]], shifts: np.ndarray | None = None):
        looked.append(shown)
        return pixels(shop, shown, shifts)

    monkeypatch.setattr(Workshop, "pixels", recording)
    settings = yaml.safe_load(recipe.read_text())
    settings["pretrain"]["see"] |= {"unrelated": unrelated}
    changed, out = tmp_path / "changed.yaml", tmp_path / "out"
    changed.write_text(yaml.safe_dump(settings))
    assert pretrain(changed, tmp_path / "pool", out) == 0
    sizes = [[len(shots) for shots in shown] for shown in looked[:2]]
    assert sizes == ([[10], [10]] if unrelated else [[5, 5], [5, 5]]), "two families per step"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    seen = [line["measured"]["seen"] for line in lines if line["stage"] == "see" and "measured" in line]
    assert seen and all(("same_mark" in found) is not unrelated for found in seen), "comparing heads"


def test_training_starts_from_the_weights_of_the_checkpoint(
    recipe: Path, pool: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.research.pretrain.loop.run_stage", lambda *_: None)
    assert pretrain(recipe, pool, tmp_path / "second", "--start", str(whole / "checkpoint")) == 0
    weights = [file_sha256(run / "checkpoint" / "model.safetensors") for run in (whole, tmp_path / "second")]
    assert weights[0] == weights[1]


def test_shifted_pictures_take_the_boxes_of_the_heads_along_and_answers_with_boxes_are_not_shifted(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load(recipe.read_text())
    settings["pretrain"]["speak"]["shares"] = {"screen": 0.5, "screen_locate": 0.5}
    settings["pretrain"]["see"]["unrelated"] = False
    shifts: dict[str, list[Any]] = {"pixels": [], "targets": []}
    unmoved: list[bool] = []

    def spy(name: str):
        real = getattr(Workshop, name)

        def call(shop: Workshop, families: Any, moved_by: np.ndarray | None = None):
            if moved_by is not None:
                shifts[name].append(moved_by)
            return real(shop, families, moved_by)

        monkeypatch.setattr(Workshop, name, call)

    def show(batcher: PixelBatcher, rows: Sequence[int], moved_by: np.ndarray | None = None) -> torch.Tensor:
        unmoved.append(moved_by is None)
        return shown(batcher, rows, moved_by)

    shown = PixelBatcher.__call__
    spy("pixels")
    spy("targets")
    monkeypatch.setattr(PixelBatcher, "__call__", show)
    path = tmp_path / "pointing.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert pretrain(path, tmp_path / "pool", tmp_path / "out", "--start", str(whole / "checkpoint")) == 0
    assert len(shifts["pixels"]) == len(shifts["targets"]) == 8, "see and read have four steps each"
    assert all(one is other for one, other in zip(shifts["pixels"], shifts["targets"], strict=True))
    assert max(abs(one).max() for one in shifts["pixels"]) == settings["pretrain"]["jitter"] == 4
    assert unmoved.count(False) == 8, "questions with words are not shifted"


def test_a_model_that_learns_places_can_be_asked_for_them(
    recipe: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(whole / "checkpoint").prompt.locate is None
    shares = {"screen": 0.5, "screen_locate": 0.5}
    settings = yaml.safe_load(recipe.read_text())
    settings["pretrain"]["speak"] |= {"shares": shares, "box_weight": 5}
    pointing = tmp_path / "pointing.yaml"
    manifest = verify(whole / "checkpoint")
    tokens = count_tokens(manifest.prompt, manifest.image.most_tokens, load_tokenizer(whole / "checkpoint"))
    most = settings["architecture"]["max_positions"] - 256 - tokens.prompt  # fits without the sentence about places
    pointing.write_text(yaml.safe_dump(settings | {"max_tokens_cot": most}))
    assert pretrain(pointing, tmp_path / "pool", tmp_path / "too-long", "--start", str(whole / "checkpoint")) == 2
    told = capsys.readouterr().err
    assert f"an answer of {most + 256} (max_tokens_cot {most}, and 256 for boxes) exceed the model's" in told
    assert f"Lower max_tokens_cot to {most - tokens.asking_for_places}" in told
    assert not (tmp_path / "too-long").exists() and not (tmp_path / "pool").exists(), "refused before any work"

    pointing.write_text(yaml.safe_dump(settings))
    assert pretrain(pointing, tmp_path / "pool", tmp_path / "out", "--start", str(whole / "checkpoint")) == 0
    manifest = verify(tmp_path / "out" / "checkpoint")
    assert manifest.prompt.locate == COMPACT.cot + " Point at each fault."
    assert manifest.decoding.max_tokens_locate == manifest.decoding.max_tokens_cot + 256
    logged = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in logged)) == ["see", "read", "speak"]
    measured = [line.get("measured", {}) for line in logged]
    assert any("changed" in found for found in measured)
    for places in ("read", "found", "judged"):
        assert any("place of extension" in found.get(places, {}) for found in measured), places

    products = [json.loads(line) for line in (tmp_path / "pool" / "products.jsonl").read_text().splitlines()]
    variations = settings["pretrain"]["pool"]["variations_per_product"]
    assert variations == 2
    shots = [shot for product in products for shot in product["shots"][:-variations]]
    assert all(set(shot["boxes"]) == set(shot["dimensions"]) for shot in shots)
    boxes = [Box(*edges) for shot in shots for edges in shot["boxes"].values()]
    assert len(boxes) >= 16 and all(box.valid for box in boxes)


def test_a_directory_of_another_run_is_refused(
    recipe: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"stage": "something else"}')
    assert pretrain(recipe, pool, tmp_path) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["pretrain", "--recipe", "no-such-recipe", "--out", str(tmp_path / "x")]) == 2
    assert "no-such-recipe" in capsys.readouterr().err


def test_a_run_does_not_continue_in_another_number_format(
    whole: Path, recipe: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = torch.device("cpu")
    before = pretraining_computes_in(cpu)
    monkeypatch.setattr("trainer.training.number_format.has_bfloat16", lambda: before is torch.float32)
    assert {before, pretraining_computes_in(cpu)} == {torch.bfloat16, torch.float32}
    assert pretrain(recipe, pool, whole) == 2
    assert "number_format" in capsys.readouterr().err


ATTRIBUTES = {"kind": "jar", "body": "red", "number": "42"}
ORIGINAL = PoolShot(0, "a red jar, on a white background", ATTRIBUTES, (), (), (), 0, {"width": 0.5})
SOUND = PoolShot(1, "a red jar, light from the left", ATTRIBUTES, (), (), (), 0, {"width": 0.5})
FLOATING = PoolShot(2, "a red jar", ATTRIBUTES, ("placement_layout",), ("it floats",), (), 2, {"width": 0.7})


PLACED = replace(FLOATING, boxes={"placement_layout": Box(0.2, 0.3, 0.4, 0.5)})


@pytest.fixture
def small_pool() -> Pool:
    return Pool(np.zeros((3, 8, 8, 3), np.uint8), [PoolProduct("a red jar", ORIGINAL, (SOUND,), (FLOATING,))])


def test_questions_about_a_picture_have_one_answer_each() -> None:
    asked = questions(SOUND)
    assert (asked["tens"], asked["ones"], asked["light"], asked["cap"]) == ("4", "2", "left", "none")
    assert (asked["layout"], asked["shadow"], asked["extension"], asked["appearance"]) == ("fine",) * 4
    assert questions(FLOATING)["layout"] == "it floats"
    assert "light" not in questions(FLOATING)
    assert "layout" not in questions(ORIGINAL, original=True), "nothing can be wrong with the original"


def test_every_attribute_is_asked_whether_it_is_still_the_originals() -> None:
    other = replace(SOUND, dimensions=(Dimension.APPEARANCE.value,) * 2, comments=("", ""), changed=("number", "body"))
    asked = questions(other)
    assert (asked["same_number"], asked["same_body"], asked["same_stripes"]) == ("other", "other", "same")
    assert "appearance" not in asked, "two sentences are true, and a head has one answer"
    assert "same_cap_shape" not in asked, "this product has no cap"
    assert not {f"same_{name}" for name in COMPARED} & set(questions(ORIGINAL, original=True))


def test_variations_take_the_places_of_generated_pictures_only_when_asked(small_pool: Pool) -> None:
    varied = tuple(replace(SOUND, row=row) for row in (10, 11, 12, 13))
    pool = Pool(small_pool.pixels, [replace(small_pool.products[0], usable=(SOUND,) * 4, variations=varied)])
    tasks = Tasks(pool, None, COMPACT, usable_counts=(0, 0, 0, 0, 1))
    rng = np.random.default_rng(0)
    drawn = [tasks.family(rng, 0.5) for _ in range(200)]
    assert all(family[0] is ORIGINAL for family in drawn)
    rows = [shot.row for family in drawn for shot in family[1:]]
    assert 0.4 < np.mean([row >= 10 for row in rows]) < 0.6
    assert all(len({s.row for s in f if s.row >= 10}) == sum(s.row >= 10 for s in f) for f in drawn), "none twice"
    assert {shot.row for _ in range(20) for shot in tasks.family(rng)} == {0, 1}


def test_the_answer_sheet_knows_every_picture_by_its_row(small_pool: Pool) -> None:
    asked = Questionnaire.of(small_pool)
    answers = AnswerSheet(asked, small_pool)([2, 0, 1])
    assert asked.classes["layout"] == ("fine", "it floats")
    assert answers["layout"].tolist() == [1, IGNORED, 0]
    assert answers["light"].tolist() == [IGNORED, IGNORED, 0]
    mean, deviation = asked.measures["width"]
    torch.testing.assert_close(answers[MEASURES][:, 0] * deviation + mean, torch.tensor([0.7, 0.5, 0.5]))


def test_places_are_asked_of_each_dimension(small_pool: Pool) -> None:
    asked = Questionnaire.of(small_pool)
    boxes = asked.answers([(SOUND, False), (PLACED, False)])[BOXES]
    assert boxes.shape == (2, 4 * len(DIMENSIONS))
    assert boxes[0].isnan().all()
    first = 4 * DIMENSIONS.index(Dimension.LAYOUT.short)
    assert boxes[1, first : first + 4].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert int((~boxes[1].isnan()).sum()) == 4
    assert Heads(1, 8, asked, ("layout", BOXES))(torch.zeros(3, 8))[BOXES].shape == (3, boxes.shape[1])


def test_the_loss_of_boxes_is_their_mean_error_in_tenths_of_the_side() -> None:
    found = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 0.0, 0.0]])
    wanted = torch.tensor([[0.1, 0.2, 0.6, 0.8], [torch.nan] * 4])
    assert answer_loss({BOXES: found}, {BOXES: wanted}, EVEN).item() == pytest.approx((1 + 2) / 4)
    layout = {"layout": torch.tensor([[0.0, 0.0]])}
    both = answer_loss({BOXES: found, **layout}, {BOXES: wanted, "layout": torch.tensor([0])}, EVEN)
    assert both.item() == pytest.approx(0.75 + np.log(2))
    assert answer_loss({BOXES: found}, {BOXES: wanted}, LossWeights(0.2, 1)).item() == pytest.approx(0.2 * 0.75)


def test_recall_counts_boxes_with_the_right_centre_and_with_half_the_overlap(small_pool: Pool) -> None:
    asked = Questionnaire.of(small_pool)
    wanted = asked.answers([(PLACED, False)] * 3 + [(SOUND, False)])[BOXES]
    first = 4 * DIMENSIONS.index(Dimension.LAYOUT.short)
    found = torch.zeros_like(wanted)
    found[0, first : first + 4] = torch.tensor([0.2, 0.3, 0.4, 0.5])  # the box itself
    found[1, first : first + 4] = torch.tensor([0.25, 0.35, 0.3, 0.4])  # inside it, and small
    found[2, first : first + 4] = torch.tensor([0.6, 0.3, 0.8, 0.5])  # beside it
    recall = Recall(asked)
    recall.add({BOXES: found}, {BOXES: wanted})
    assert recall.result() == {"place of layout": [2 / 3, 1 / 3]}


def test_the_loss_of_heads_is_the_mean_over_known_values_of_each_question() -> None:
    logits = {"layout": torch.tensor([[2.0, 0.0], [0.0, 5.0]]), MEASURES: torch.tensor([[1.0], [9.0]])}
    targets = {"layout": torch.tensor([0, IGNORED]), MEASURES: torch.tensor([[0.5], [torch.nan]])}
    cross_entropy = np.log1p(np.exp(-2.0))
    assert answer_loss(logits, targets, EVEN).item() == pytest.approx((cross_entropy + 0.5 * 0.5**2) / 2)
    weighed = answer_loss(logits, targets, LossWeights(places=1, measures=5))
    assert weighed.item() == pytest.approx((cross_entropy + 5 * 0.5 * 0.5**2) / 2)
    unknown = {"layout": torch.tensor([IGNORED, IGNORED]), MEASURES: torch.full((2, 1), torch.nan)}
    assert answer_loss(logits, unknown, EVEN).item() == 0
    compared = {"same_cap": torch.tensor([[3.0, 0.0]]), "same_body": torch.tensor([[0.0, 0.0]])}
    same = {"same_cap": torch.tensor([0]), "same_body": torch.tensor([1])}
    own = (np.log1p(np.exp(-3.0)) + np.log(2)) / 2
    together = answer_loss(logits | compared, targets | same, EVEN)
    assert together.item() == pytest.approx((cross_entropy + 0.125) / 2 + own)


def test_a_stage_gives_its_heads_its_own_weights(recipe: Path) -> None:
    settings = load_recipe(str(recipe)).pretrain
    assert settings is not None
    course = settings.read.model_copy(update={"place_weight": 2.0, "measure_weight": 3.0})
    assert weights_of(course) == LossWeights(places=2.0, measures=3.0)


def test_originals_are_left_out_of_targets_about_generated_pictures() -> None:
    assert generated_only({"layout": torch.arange(10)})["layout"].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_recall_counts_defects_seen_and_sound_pictures_called_fine(small_pool: Pool) -> None:
    asked = Questionnaire.of(small_pool)
    recall = Recall(asked)
    says_fine = torch.tensor([[1.0, 0.0]] * 4)
    recall.add({"layout": says_fine}, {"layout": torch.tensor([0, 1, 1, IGNORED])})
    recall.add({"layout": 1 - says_fine}, {"layout": torch.tensor([0, 0, 0, 1])})
    assert recall.result()["layout"] == [1 / 3, 1 / 4]
    assert APPEARANCE in asked.classes


def test_the_score_of_verdicts_is_the_papers() -> None:
    usable = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    fine = torch.tensor([[0.9, 0.2, 0.1, 0.1], [0.9, 0.6, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.6]])
    # right, one wrong picture named beside the right one, right, and one shown where none may be.
    assert option_score(fine, usable) == {"all": 0.5, "surest": 0.75}
