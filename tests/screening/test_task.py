"""Task: options and dimensions as words."""

from __future__ import annotations

import re

import pytest

from screening.answer import Finding, compose
from screening.task import NORMAL, STANDARD_DIMENSIONS, Dimension, dimension_named, options_text


@pytest.mark.parametrize(
    ("options", "text"),
    [(set(), "N"), ({"A"}, "A"), ({"C", "A"}, "AC"), (("D", "B", "D"), "BD"), (set("DCBA"), "ABCD")],
)
def test_options_are_written_in_order(options, text):
    assert options_text(options) == text


@pytest.mark.parametrize("options", [{"E"}, {"A", "N"}, {"a"}, {""}])
def test_an_unknown_option_is_refused_by_name(options):
    with pytest.raises(ValueError, match="unknown options"):
        options_text(options)


@pytest.mark.parametrize("dimension", Dimension)
def test_a_dimension_is_known_by_all_its_names(dimension):
    for word in (dimension.short, dimension.title, dimension.value, dimension.title.upper(), f"  {dimension.short} "):
        assert dimension_named(word) is dimension


@pytest.mark.parametrize("dimension", Dimension)
def test_a_row_of_the_table_can_be_written_and_read(dimension):
    """Its name is the last word of no other phrase, and its word and meaning can stand in an answer."""
    assert re.fullmatch("[a-z]+(_[a-z]+)*", dimension.value) and re.fullmatch("[a-z]+", dimension.short)
    assert dimension.short != NORMAL
    others = [other for other in Dimension if other is not dimension]
    assert not any(dimension.title in other.title or dimension.short == other.short for other in others)
    finding = Finding("A", frozenset({dimension}), dimension.meaning)
    assert compose(frozenset(), (finding,)).findings == (finding,)


def test_the_dimensions_of_a_manifest_that_names_none_never_change():
    """Checkpoints that were published before manifests named dimensions were trained on these."""
    assert [str(dimension) for dimension in STANDARD_DIMENSIONS] == [
        "appearance_deformation",
        "physical_shadow",
        "placement_layout",
        "extension_rationality",
    ]


def test_a_word_names_only_a_dimension_among_those_that_are_given():
    assert dimension_named("layout", among=(Dimension.SHADOW,)) is None


@pytest.mark.parametrize("word", ["", "normal", "shadows", "appearance shadow", "physical"])
def test_other_words_name_no_dimension(word):
    assert dimension_named(word) is None
