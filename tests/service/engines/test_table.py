"""Which engine a setting names, and which settings do not fit it."""

from __future__ import annotations

import pytest

from service.config.settings import SettingsError, load
from service.engines.scripted_engine import ScriptedEngine
from service.engines.table import ENGINES, create_engine
from service.engines.vllm_engine import VllmEngine

REGISTRY = {"registry": "sqlite:///mlflow.db"}


def test_every_engine_of_the_table_is_named_as_its_answers_name_it() -> None:
    assert {create_engine(load({"engine": name, "checkpoint": "c"})).name for name in ENGINES} == set(ENGINES)


def test_the_default_is_vllm_and_scripted_needs_no_checkpoint() -> None:
    assert isinstance(create_engine(load({"checkpoint": "c"})), VllmEngine)
    assert isinstance(create_engine(load({"engine": "scripted"})), ScriptedEngine)


def test_an_engine_of_ones_own_is_named_by_its_module() -> None:
    given = {"engine": "tests.service.obedient_engine:make", "checkpoint": "c"}
    assert create_engine(load(given)).loads_checkpoints


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"engine": "magic"}, r"--engine .*there is no engine 'magic'.*vllm, scripted, or package.module:name"),
        ({"engine": "no_such_module:make"}, r"--engine .*cannot be loaded: No module named 'no_such_module'"),
        ({"engine": "json:no_such_name"}, r"--engine .*cannot be loaded: .*no_such_name"),
        ({"engine": "sys:path"}, r"--engine .*is not a function but list"),
        ({}, "the vllm engine needs --checkpoint DIR"),
        ({"engine": "tests.service.obedient_engine:make"}, "needs --checkpoint DIR"),
        ({"engine": "scripted", **REGISTRY}, "--registry: the scripted engine has no checkpoint to change"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        create_engine(load(given))
