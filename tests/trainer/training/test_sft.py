"""SFT: the trained parts, tokens and pictures."""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from screening.answer import Answer, Mode, parse
from screening.boxes import Frame
from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.manifest import Decoding, read_manifest
from screening.checkpoint.weights import changed_for_engine
from screening.prompt import COMPACT, locating
from screening.task import Dimension
from tests.squares import load_square
from tests.trainer.contracts import SMALL
from trainer.__main__ import main
from trainer.data_directory import DataError, read_samples
from trainer.records import Generated, Sample
from trainer.runs.run_directory import RunMismatch
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.positions import check_places
from trainer.training.recipe.recipe import RecipeError, load_recipe
from trainer.training.saved_states import WHOLE_NAME, last_whole_checkpoint
from trainer.training.sft.agreement import check_dimensions
from trainer.training.sft.rows import caption_rows, dataset, screening_rows
from trainer.training.sft.train import StrictSFTTrainer, build_trainer, train


@pytest.fixture
def data(small_data: Path) -> Path:
    return small_data


@pytest.fixture
def checkpoint(small_checkpoint: Path) -> Path:
    return small_checkpoint


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    stage = "{epochs: 1, batch_size: 2, learning_rate: 0.001, captions: %s}"
    path.write_text(
        "name: small\nprompt: compact\nmax_tokens_cot: 256\n"
        f"sft_weak: {stage % 'true'}\nsft_answer: {stage % 'false'}\n"
    )
    return str(path)


def test_a_row_holds_the_question_and_the_answer_of_its_mode(data: Path) -> None:
    samples = read_samples(data)
    for mode, share in ((Mode.COT, 0.0), (Mode.DIRECT, 1.0)):
        for sample, row in zip(samples, screening_rows(samples, COMPACT, direct_share=share, seed=0), strict=True):
            answer = parse(row["completion"][0]["content"][0]["text"], mode)
            assert getattr(answer, "options", None) == sample.options
            asked = [part for part in row["prompt"][0]["content"] if part["type"] == "text"]
            assert asked[0]["text"] == (COMPACT.cot if mode is Mode.COT else COMPACT.direct)


def test_training_sees_the_pixels_that_the_service_sees(data: Path) -> None:
    samples = read_samples(data)
    row = dataset(screening_rows(samples, COMPACT, direct_share=0, seed=0), data, SMALL)[0]
    for file, image in zip(samples[0].files, row["images"], strict=True):
        assert image.tobytes() == load_square((data / file).read_bytes(), 64).tobytes()


def test_a_picture_that_breaks_during_a_training_is_named(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    samples = read_samples(copy)
    table = dataset(screening_rows(samples, COMPACT, direct_share=0, seed=0), copy, SMALL)
    picture = copy / samples[2].files[3]
    picture.write_bytes(picture.read_bytes()[:-99])
    assert table[1]
    with pytest.raises(DataError, match=rf"{picture}: the JPEG picture is truncated or damaged"):
        table[2]


def test_loss_falls_on_the_whole_answer_and_on_nothing_else(data: Path, checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint)
    samples = read_samples(data)
    rows = screening_rows(samples, COMPACT, direct_share=0, seed=0)
    table = dataset(rows, data, SMALL)
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)([table[i] for i in range(3)])
    tokens_per_picture = read_manifest(checkpoint).image.tokens_per_picture
    for i in range(3):
        image_tokens = (batch["input_ids"][i] == processor.image_token_id).sum().item()
        assert image_tokens == 5 * tokens_per_picture, "one tile per picture, none cut off"
        learned = batch["labels"][i][batch["labels"][i] != -100]
        target = rows[i]["completion"][0]["content"][0]["text"]
        assert processor.tokenizer.decode(learned) == target + "<|im_end|>\n"
    assert batch["pixel_values"].shape == (15, 3, 64, 64)


def test_captions_are_asked_one_picture_at_a_time(data: Path) -> None:
    samples = read_samples(data)
    rows = caption_rows(samples)
    assert len(rows) == 5 * len(samples)
    assert all(len(row["files"]) == 1 for row in rows)
    assert rows[0]["completion"][0]["content"][0]["text"] == samples[0].original.caption


def test_captions_that_the_data_lacks_are_refused(data: Path, checkpoint: Path, recipe: str, tmp_path: Path) -> None:
    bare = shutil.copytree(data, tmp_path / "bare")
    samples = [json.loads(line) for line in (bare / "samples.jsonl").read_text().splitlines()]
    for sample in samples:
        for picture in (sample["original"], *sample["generated"]):
            picture["caption"] = ""
    (bare / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    with pytest.raises(DataError, match=r"sft_weak.captions: no picture .* or set sft_weak.captions to false"):
        train("weak", recipe, checkpoint, bare, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_the_seed_chooses_a_few_captions_of_each_sample(data: Path) -> None:
    samples = read_samples(data)
    drawn = [[row["files"] for row in caption_rows(samples, most=2, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for number, sample in enumerate(samples):
        (one,), (other,) = drawn[0][2 * number : 2 * number + 2]
        assert one != other and {one, other} <= set(sample.files)
    assert caption_rows(samples, most=9) == caption_rows(samples)


def _under_licence(data: Path, copy: Path) -> Path:
    """A copy of the data in which the pictures of one sample have a licence that restricts their use."""
    shutil.copytree(data, copy)
    first, *others = (copy / "samples.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(first) | {"licence": "no-shops"}), *others]
    (copy / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return copy


@pytest.mark.slow
def test_a_stage_trains_the_language_model_and_leaves_vit_and_aligner(
    data: Path, checkpoint: Path, recipe: str, tmp_path: Path
) -> None:
    data, out = _under_licence(data, tmp_path / "data"), tmp_path / "weak"
    manifest = train("weak", recipe, checkpoint, data, out, None)
    assert verify(out / "checkpoint") == manifest
    assert manifest.licences == {"no-shops"}
    parent = read_manifest(checkpoint)
    assert manifest.parent == parent.digest
    assert changed_for_engine(parent, manifest) == [], "a service loads it in place"
    before, after = load_file(checkpoint / "model.safetensors"), load_file(out / "checkpoint" / "model.safetensors")
    assert before.keys() == after.keys()
    frozen = [name for name in before if "vision_tower" in name or "multi_modal_projector" in name]
    assert frozen
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    changed = [n for n, t in before.items() if not torch.equal(t, after[n])]
    assert any("layers.0.self_attn" in name for name in changed)
    assert any("lm_head" in name for name in changed)
    losses = [entry["loss"] for entry in json.loads((out / "log.json").read_text()) if "loss" in entry]
    assert losses

    with pytest.raises(RunMismatch, match="other settings"):
        train("weak", recipe, checkpoint, data, out, 3)


def test_batches_arrive_if_paths_in_tmpdir_are_too_long_for_sockets(data, checkpoint, recipe, tmp_path, monkeypatch):
    (long := tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)  # of other tests
    rows = dataset(screening_rows(read_samples(data), COMPACT, direct_share=0, seed=0), data, SMALL)
    trainer = build_trainer(checkpoint, rows, load_recipe(recipe).sft_answer, tmp_path / "states")
    assert trainer.args.dataloader_num_workers == 1
    assert next(iter(trainer.get_train_dataloader()))["pixel_values"].shape == (10, 3, 64, 64)


def test_a_resumed_run_continues_from_the_saved_weights(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
        model.model.language_model.layers[0].mlp.up_proj.weight.mul_(3.0)
    model.save_pretrained(tmp_path)
    fresh = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    trainer = StrictSFTTrainer.__new__(StrictSFTTrainer)
    trainer.model = fresh
    trainer._load_from_checkpoint(str(tmp_path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


@pytest.mark.parametrize("broken", ["checkpoint", "data", "recipe"])
def test_a_wrong_input_is_named_and_ends_with_status_2(
    broken: str, data: Path, checkpoint: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"checkpoint": str(checkpoint), "data": str(data), "recipe": recipe, broken: str(tmp_path / "missing")}
    arguments = [part for name, value in inputs.items() for part in (f"--{name}", value)]
    assert main(["sft", "--stage", "weak", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_at_least_one_sample(limit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sft", "--stage", "weak", "--checkpoint", "C", "--data", "D", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*command, f"--limit={limit}"])
    assert f"{limit!r} is not a whole number of at least 1" in capsys.readouterr().err


def test_a_full_disk_is_an_error_in_a_sentence(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.training.sft.train.train", full)
    command = ["sft", "--stage", "weak", "--checkpoint", str(checkpoint), "--data", str(data)]
    assert main([*command, "--out", str(tmp_path / "out"), "--tracking-uri", "none"]) == 1
    assert f"{tmp_path / 'out'} cannot be written: No space left on device" in capsys.readouterr().err


def test_an_incomplete_state_is_ignored(tmp_path: Path) -> None:
    """Its list of files is missing or damaged, or names a file of another size."""
    for step, text in ((200, '{"weights": 3}'), (400, None), (600, '{"weights": 4}'), (1000, "{")):
        state = tmp_path / f"checkpoint-{step}"
        state.mkdir()
        (state / "weights").write_text("abc")
        if text is not None:
            (state / WHOLE_NAME).write_text(text)
    assert last_whole_checkpoint(tmp_path, clean=False) == str(tmp_path / "checkpoint-200")
    assert len(list(tmp_path.iterdir())) == 4
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-200")
    assert len(list(tmp_path.iterdir())) == 1
    assert last_whole_checkpoint(tmp_path / "none") is None


def test_a_verdict_that_the_checkpoint_could_not_give_is_refused(data: Path) -> None:
    samples = read_samples(data)
    named = {dimension for sample in samples for picture in sample.generated for dimension in picture.dimensions}
    check_dimensions(samples, named)
    with pytest.raises(DataError, match=rf"names {min(named)}, but the checkpoint was trained on .*`trainer import`"):
        check_dimensions(samples, [one for one in Dimension if one is not min(named)])


def test_samples_without_reasoning_are_not_taught_as_empty_thoughts(data: Path) -> None:
    sample = read_samples(data)[0].model_copy(update={"reasoning": " "})
    with pytest.raises(DataError, match=sample.id):
        screening_rows([sample], COMPACT, direct_share=0, seed=0)
    assert screening_rows([sample], COMPACT, direct_share=1, seed=0)


def _located(samples: list[Sample], **options: Any) -> list[dict[str, Any]]:
    return screening_rows(samples, COMPACT, direct_share=0, seed=0, locate=1.0, **options)


def test_a_located_row_asks_for_boxes_and_teaches_those_of_the_data(data: Path) -> None:
    samples = read_samples(data)
    for sample, row in zip(samples, _located(samples), strict=True):
        assert row["prompt"][0]["content"][0]["text"] == locating(COMPACT).locate
        answer = parse(row["completion"][0]["content"][0]["text"], Mode.COT)
        assert isinstance(answer, Answer) and answer.reasoning == sample.reasoning
        for finding, picture in zip(answer.findings, sample.generated, strict=True):
            assert [region.dimension for region in finding.regions] == sorted_dimensions(picture)
            for region in finding.regions:
                assert region.box == pytest.approx(picture.box_of(region.dimension), abs=0.0051)


def sorted_dimensions(picture: Generated) -> list[Dimension]:
    return [dimension for dimension in Dimension if dimension in picture.dimensions]


def test_boxes_are_taught_on_the_padded_canvas(data: Path) -> None:
    samples = [sample for sample in read_samples(data) if not all(p.usable for p in sample.generated)]
    answer = parse(
        _located(samples, frame_of=lambda _: Frame((400, 100)))[0]["completion"][0]["content"][0]["text"], Mode.COT
    )
    assert isinstance(answer, Answer)
    boxes = [region.box for finding in answer.findings for region in finding.regions]
    assert boxes and all(0.37 <= box.top < box.bottom <= 0.63 for box in boxes)


def test_samples_without_boxes_are_trained_without_and_all_of_them_are_refused(data: Path) -> None:
    samples = [sample for sample in read_samples(data) if not all(p.usable for p in sample.generated)]
    unknown = [
        sample.model_copy(update={"generated": tuple(map(_without_boxes, sample.generated))}) for sample in samples
    ]
    rows = _located([samples[0], *unknown[1:]])
    assert [row["prompt"][0]["content"][0]["text"] != COMPACT.cot for row in rows] == [True] + [False] * len(
        unknown[1:]
    )
    with pytest.raises(DataError, match="no sample has a `box`"):
        _located(unknown)


def _without_boxes(picture: Generated) -> Generated:
    return picture.model_copy(update={"defects": tuple(d.model_copy(update={"box": None}) for d in picture.defects)})


@pytest.mark.parametrize("direct_share, locate", [(1.0, 0.5), (0.0, 1e-9)])
def test_shares_that_leave_no_located_row_are_named(data: Path, direct_share: float, locate: float) -> None:
    samples = read_samples(data)
    with pytest.raises(DataError, match=f"known boxes .{len(samples)} of {len(samples)}. was drawn") as refused:
        screening_rows(samples, COMPACT, direct_share=direct_share, seed=0, locate=locate)
    assert f"`locate: {locate:g}` and `direct_share: {direct_share:g}`" in str(refused.value)


def test_the_share_of_located_rows_leaves_the_other_rows_as_they_were(data: Path) -> None:
    samples = read_samples(data)
    plain = screening_rows(samples, COMPACT, direct_share=0.5, seed=3)
    mixed = screening_rows(samples, COMPACT, direct_share=0.5, seed=3, locate=0.5)
    asked = [row["prompt"][0]["content"][0]["text"] for row in mixed]
    assert {COMPACT.cot, COMPACT.direct, locating(COMPACT).locate} >= set(asked)
    kept = [
        (one, other) for one, other, text in zip(plain, mixed, asked, strict=True) if text != locating(COMPACT).locate
    ]
    assert all(one == other for one, other in kept) and 0 < len(kept) < len(samples)


def test_a_training_with_boxes_makes_a_checkpoint_that_can_be_asked_for_them(
    data: Path, checkpoint: Path, recipe: str, tmp_path: Path
) -> None:
    path = Path(recipe)
    path.write_text(path.read_text().replace("captions: false}", "captions: false, locate: 1.0}"))
    made = train("answer-driven", recipe, checkpoint, data, tmp_path / "out", 4)
    parent = read_manifest(checkpoint)
    assert (made.prompt, parent.prompt.locate) == (locating(parent.prompt), None)
    assert made.decoding.max_tokens(Mode.COT) == parent.decoding.max_tokens(Mode.COT)
    assert made.decoding.max_tokens(Mode.COT, locate=True) > parent.decoding.max_tokens(Mode.COT)
    assert made.parent == parent.digest


def test_boxes_that_do_not_fit_into_the_positions_are_refused_before_the_training(
    data: Path, checkpoint: Path, recipe: str, tmp_path: Path
) -> None:
    manifest = read_manifest(checkpoint)
    tokens = count_tokens(manifest.prompt, manifest.image.most_tokens, load_tokenizer(checkpoint))
    most = 1024 - 256 - tokens.prompt  # fits without the sentence that asks for boxes
    path = Path(recipe)
    text = path.read_text().replace("captions: false}", "captions: false, locate: 1.0}")
    path.write_text(text.replace("max_tokens_cot: 256", f"max_tokens_cot: {most}"))
    longer = shutil.copytree(checkpoint, tmp_path / "longer")
    fields = {name: getattr(manifest, name) for name in ("name", "version", "prompt", "image")}
    parent = write_manifest(longer, decoding=Decoding(max_tokens_cot=most), **fields)
    with pytest.raises(RecipeError) as refused:
        train("answer-driven", recipe, longer, data, tmp_path / "out", 4)
    said = str(refused.value)
    assert f"an answer of {most + 256} (max_tokens_cot {most}, and 256 for boxes) exceed the model's 1024" in said
    remedy = most - tokens.asking_for_places
    assert f"sft_answer.locate: a question of {tokens.locating_prompt} tokens that asks for boxes" in said
    assert f"Lower max_tokens_cot to {remedy}. A training keeps" in said
    assert not (tmp_path / "out").exists()
    check_places("sft_answer", longer, parent.model_copy(update={"decoding": Decoding(max_tokens_cot=remedy)}))
