"""The documentation cannot drift: settings, metrics, paths and problem types are all in it."""

from __future__ import annotations

import re

import pytest

from service.app import create_app
from service.config.settings import PREFIX, Settings
from service.engines.scripted_engine import ScriptedEngine
from service.errors import HEADER_TIMEOUT, METHOD_NOT_ALLOWED, NOT_FOUND, PROBLEMS
from service.metrics import Metrics


def test_every_setting_is_in_the_table_with_its_default(repository) -> None:
    text = (repository / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(SCREENING_\w+)` \|([^|]*)\|", text, re.MULTILINE))
    assert rows.keys() == {PREFIX + name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        shown = rows[PREFIX + name.upper()].strip(" `")
        expected = "" if field.default in (None, ()) else str(field.default)
        assert shown == expected, name


def test_every_metric_is_in_the_table_and_no_other(repository) -> None:
    text = (repository / "docs" / "monitoring.md").read_text()
    written = set(re.findall(r"^\| `(screening_\w+)` \|", text, re.MULTILINE))
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in Metrics().registry.collect()
    }
    assert written == exposed


def test_every_path_is_in_the_interface(repository) -> None:
    text = "".join((repository / "docs" / name).read_text() for name in ("http-api.md", "http-api-operators.md"))
    app = create_app(Settings(engine="scripted"), ScriptedEngine())
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text


# A client that hung up reads no answer.
ANSWERED = sorted(
    {p for p in (*PROBLEMS.values(), NOT_FOUND, METHOD_NOT_ALLOWED, HEADER_TIMEOUT) if p.status != 499}, key=str
)


@pytest.mark.parametrize("problem", ANSWERED)
def test_every_problem_type_is_in_the_interface(repository, problem) -> None:
    text = (repository / "docs" / "http-api.md").read_text()
    assert re.search(rf"^\| {problem.status}\b.*`{problem.slug}`", text, re.MULTILINE)
