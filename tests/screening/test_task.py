"""Task: options and dimensions as words."""

from __future__ import annotations

import pytest

from screening.task import Dimension, dimension_named, options_text


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


@pytest.mark.parametrize("word", ["", "normal", "shadows", "appearance shadow", "physical"])
def test_other_words_name_no_dimension(word):
    assert dimension_named(word) is None
