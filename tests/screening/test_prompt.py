"""The question as chat messages."""

from __future__ import annotations

import hashlib

import pytest
from pydantic import ValidationError

from screening.answer import Mode
from screening.prompt import PICTURES_PER_SAMPLE, PROMPTS, STANDARD, Prompt, messages, standard_prompt
from screening.task import OPTIONS, STANDARD_DIMENSIONS, Dimension


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("name", PROMPTS)
def test_a_question_shows_the_original_and_then_each_option_after_its_letter(name, mode):
    prompt = PROMPTS[name]
    (message,) = messages(prompt, mode)
    instruction, *items = message["content"]
    assert message["role"] == "user"
    assert instruction == {"type": "text", "text": prompt.cot if mode is Mode.COT else prompt.direct}
    assert [item["text"] for item in items[::2]] == ["Original:", *(f"{option}:" for option in OPTIONS)]
    assert items[1::2] == [{"type": "image"}] * PICTURES_PER_SAMPLE


def test_the_modes_of_a_prompt_differ():
    assert all(prompt.cot != prompt.direct for prompt in PROMPTS.values())


def test_every_prompt_has_its_own_version():
    assert len({prompt.version for prompt in PROMPTS.values()}) == len(PROMPTS)


def test_the_standard_prompt_shows_the_form_that_the_grammar_reads():
    for word in (
        "<think>",
        "</think><answer>",
        "</answer>",
        "so I ultimately chose",
        "<A>",
        "<D>",
        "N if there is none",
    ):
        assert word in STANDARD.cot
    assert "<think>" not in STANDARD.direct


def test_the_standard_texts_of_the_four_dimensions_never_change_under_their_version():
    prompt = standard_prompt(STANDARD_DIMENSIONS)
    digest = hashlib.sha256(f"{prompt.cot}\0{prompt.direct}".encode()).hexdigest()
    assert prompt.version == "standard-1"
    assert digest == "ad2182f72276d009bc6007166e083ae9c52de459691e85dc3286e70005555c3a"


@pytest.mark.parametrize("dimension", Dimension)
def test_the_standard_texts_name_every_dimension_with_its_meaning(dimension):
    for text in (STANDARD.cot, STANDARD.direct):
        assert f"{dimension.short} ({dimension.meaning})" in text


def test_a_prompt_with_an_unknown_field_is_refused():
    with pytest.raises(ValidationError):
        Prompt.model_validate({"version": "1", "cot": "a", "direct": "b", "system": "c"})
