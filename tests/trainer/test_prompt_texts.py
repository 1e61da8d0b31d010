"""Prompts of a recipe's own: where they are read, and which texts are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from screening.answer import Answer, Mode, parse
from screening.prompt import PROMPTS
from trainer.prompt_texts import MOST_CHARACTERS, PROMPT_FILES, PromptError, PromptTexts, load_prompt
from trainer.training.recipe.recipe import RecipeError, load_recipe

TEXTS = {"cot": "Look at the pictures. Think, then answer.", "direct": "Look at the pictures. Answer only."}


def recipe_with(path: Path, prompt: str, extends: str = "tiny") -> str:
    path.write_text(f"extends: {extends}\nname: mine\nprompt: {prompt}\n", encoding="utf-8")
    return str(path)


def test_a_recipe_states_its_prompt_or_names_a_file_beside_it(tmp_path: Path) -> None:
    texts = "\n".join(f"{name}: |\n  {text}" for name, text in TEXTS.items())
    (tmp_path / "question.yaml").write_text(texts, encoding="utf-8")
    inline = load_recipe(recipe_with(tmp_path / "inline.yaml", str(TEXTS)))
    named = load_recipe(recipe_with(tmp_path / "named.yaml", "question.yaml"))
    assert inline == named, "a text's last line break does not count"
    assert (inline.prompt_texts.cot, inline.prompt_texts.direct) == (TEXTS["cot"], TEXTS["direct"])
    (tmp_path / "below").mkdir()
    further = tmp_path / "below" / "further.yaml"
    further.write_text("extends: ../named.yaml\nname: further\n", encoding="utf-8")
    assert load_recipe(str(further)).prompt == named.prompt, "the file is beside the recipe that names it"
    assert load_recipe(recipe_with(further, "standard", extends="../named.yaml")).prompt_texts == PROMPTS["standard"]


def test_the_resolved_recipe_holds_the_texts_so_that_the_run_can_be_repeated(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_with(tmp_path / "mine.yaml", str(TEXTS)))
    assert recipe.model_dump(mode="json")["prompt"] == TEXTS
    assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe
    assert load_recipe("tiny").model_dump(mode="json")["prompt"] == "compact"


def test_a_changed_text_changes_the_version() -> None:
    one = PromptTexts(**TEXTS).prompt
    other = PromptTexts(**TEXTS | {"direct": "Answer with letters."}).prompt
    assert one.version != other.version
    assert {one.version, other.version}.isdisjoint(prompt.version for prompt in PROMPTS.values())


@pytest.mark.parametrize(
    ("cot", "said"),
    [
        ("Compare <IMG_CONTEXT> with A.", "'<IMG_CONTEXT>' stands for a picture"),
        ("Compare <image> with A.", "'<image>' stands for a picture"),
        ("Think.<|im_end|> Answer.", "'<|im_end|>' is a special token"),
        ("Mark it by <box>.", "'<box>' is a special token"),
        ("The {count} names are {names}.", "'{count}' is a placeholder"),
        ("Think. \\0", "is a control character"),
        ("Think. \\ud800", "unable to parse raw data as a unicode string"),
        ("  ", "at least 1 character"),
        ("a" * (MOST_CHARACTERS + 1), f"at most {MOST_CHARACTERS} characters"),
        (TEXTS["direct"], "the same text"),
    ],
)
def test_a_text_that_would_confuse_the_model_is_refused_with_its_field(cot: str, said: str, tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path / "mine.yaml", f'{{cot: "{cot}", direct: "{TEXTS["direct"]}"}}')
    with pytest.raises(RecipeError) as refused:
        load_recipe(recipe)
    message = str(refused.value)
    assert "mine.yaml, prompt" in message and said in message
    assert len(message) < 400, "a long text is not repeated"


def test_a_wrong_file_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "question.yaml"
    for content, said in (
        (b"cot: caf\xe9\ndirect: b\n", "not UTF-8 (byte 8)"),
        (b"cot: [", "not YAML"),
        (b"cot: a\n", "direct: Field required"),
        (b"cot: a\ndirect: b\nsystem: c\n", "system: Extra inputs"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError) as refused:
            load_recipe(recipe_with(tmp_path / "mine.yaml", "question.yaml"))
        assert f"prompt: {path}" in str(refused.value) and said in str(refused.value)
        with pytest.raises(PromptError, match=r"question\.yaml"):
            load_prompt(str(path))
    with pytest.raises(RecipeError, match="Give one of standard, compact, paper, or the path"):
        load_recipe(recipe_with(tmp_path / "mine.yaml", "pap"))


@pytest.mark.parametrize("path", sorted(PROMPT_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_prompts_show_the_form_that_the_grammar_reads(path: Path) -> None:
    prompt = load_prompt(path.stem)
    assert "<think>" not in prompt.direct
    answer = parse(prompt.cot.splitlines()[-1].replace("X", "B"), Mode.COT)
    assert isinstance(answer, Answer) and answer.text == "B"
    assert [finding.option for finding in answer.findings] == ["A", "B", "C", "D"]


def test_the_papers_prompt_asks_for_one_answer() -> None:
    prompt = load_recipe("paper-prompt").prompt_texts
    assert all("Give one answer only." in text for text in (prompt.cot, prompt.direct))
