"""A pretraining run as a whole: it ends in a checkpoint, and a killed one ends in the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from screening.checkpoint import file_sha256, verify
from trainer.__main__ import main
from trainer.pretrain import vision
from trainer.pretrain.command import Pretraining
from trainer.pretrain.pool import PoolProduct, PoolShot
from trainer.pretrain.verdicts import inspection_recall
from trainer.pretrain.vision import Heads, questions
from trainer.recipe import load_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recipe, smaller in every number."""
    settings = load_recipe("tiny").model_dump(mode="json")
    settings["architecture"] |= {"image_size": 64, "vision_width": 32, "vision_layers": 1}
    settings["architecture"] |= {"text_width": 32, "text_layers": 1, "text_mlp": 64}
    pretrain = settings["pretrain"]
    pretrain["pool"] |= {"products": 4, "usable_per_product": 4, "defective_per_product": 4, "held_out": 1}
    pretrain["pool"] |= {"render_size": 64}
    pretrain["vision"] |= {"steps": 4, "pictures_per_step": 8, "warmup_steps": 1}
    pretrain["phases"] = [
        {"steps": 2, "vision_rate": 0, "shares": {"describe": 0.5, "inspect_one": 0.5}},
        {
            "steps": 4,
            "vision_rate": 0.5,
            "shares": {"describe_all": 0.2, "compare": 0.2, "inspect": 0.2, "screen": 0.4},
        },
    ]
    pretrain |= {"pictures_per_step": 10, "warmup_steps": 1}
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrain") / "pool"


def pretrain(recipe: Path, pool: Path, out: Path) -> int:
    options = ["--recipe", str(recipe), "--pool", str(pool), "--out", str(out), "--workers", "1", "--save-every", "2"]
    return main(["pretrain", *options])


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["while learning to see", "between saved states", "while saving"])
def test_a_killed_run_ends_in_the_weights_of_an_unbroken_one(
    moment: str, recipe: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(recipe, pool, tmp_path / "whole") == 0
    verify(tmp_path / "whole" / "checkpoint")

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
        if moment == "while learning to see":
            patch.setattr("trainer.pretrain.vision.draw", killing(4, vision.draw))
        elif moment == "between saved states":
            patch.setattr(Pretraining, "_batch", killing(4, Pretraining._batch))
        else:
            patch.setattr("torch.save", killing(4, torch.save))
        with pytest.raises(Killed):
            pretrain(recipe, pool, tmp_path / "killed")
    assert not (tmp_path / "killed" / "checkpoint").exists()
    assert pretrain(recipe, pool, tmp_path / "killed") == 0
    weights = [file_sha256(tmp_path / run / "checkpoint" / "model.safetensors") for run in ("whole", "killed")]
    assert weights[0] == weights[1]
    logged = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    saved = [record["step"] for record in logged if "verdicts" in record]
    assert saved == sorted(set(saved)), "no step is logged twice"


def test_a_directory_of_another_run_is_refused(
    recipe: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"stage": "something else"}')
    assert pretrain(recipe, pool, tmp_path) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["pretrain", "--recipe", "no-such-recipe", "--out", str(tmp_path / "x")]) == 2
    assert "no-such-recipe" in capsys.readouterr().err


def test_questions_about_a_picture_have_one_answer_per_head() -> None:
    attributes = {"kind": "jar", "body": "red", "number": "42"}
    plain = PoolShot(0, "a red jar, light from the left", attributes, (), (), (), 0)
    floating = PoolShot(1, "a red jar", attributes, ("placement_layout",), ("it floats",), (), 2)
    asked = questions(plain)
    assert (asked["tens"], asked["ones"], asked["light"], asked["cap"]) == ("4", "2", "left", "none")
    assert (asked["layout"], asked["shadow"], asked["extension"]) == ("fine", "fine", "fine")
    assert questions(floating)["layout"] == "it floats"
    assert "light" not in questions(floating)
    heads = Heads.of(SimpleNamespace(products=[PoolProduct("a red jar", plain, (), (floating,))]))  # type: ignore[arg-type]
    targets = heads.targets([plain, floating])
    assert heads.classes["layout"] == ("fine", "it floats")
    assert targets["layout"].tolist() == [0, 1]
    assert targets["light"].tolist() == [0, -100]


@pytest.mark.parametrize("task", ["inspect", "inspect_one"])
def test_a_model_that_always_says_fine_sees_nothing_and_is_never_wrong_about_sound_pictures(
    task: str, recipe: Path, pool: Path, tmp_path: Path
) -> None:
    run = Pretraining(load_recipe(str(recipe)), tmp_path, pool, 1)
    (fine,) = run.tokenizer.encode(" fine", add_special_tokens=False)

    def always_fine(input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, len(run.tokenizer))
        logits[..., fine] = 1
        return SimpleNamespace(logits=logits)

    rng = np.random.default_rng(0)
    batches = [run.batcher([run.tasks.draw[task](rng) for _ in range(60)], rng)]
    found = inspection_recall(always_fine, run.tokenizer, batches)  # type: ignore[arg-type]
    expected = {"shadow", "layout", "extension"} | ({"appearance"} if task == "inspect" else set())
    assert set(found) == expected
    assert all(value == (0.0, 1.0) for value in found.values())
