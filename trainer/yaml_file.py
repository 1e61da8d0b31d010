"""Reads YAML files that people write: recipes, prompts, limits of a promotion, configurations of a retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class YamlError(Exception):
    """A file is not YAML in UTF-8, or has a key twice. The message names the file and the place."""


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        YamlError: the text is wrong.
        OSError: the file cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - it extends the safe loader
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8") from error
    except yaml.YAMLError as error:
        said = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise YamlError(f"{path} is not YAML: {said}") from error
    except RecursionError:
        raise YamlError(f"{path} is not YAML: it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """The safe loader. It also refuses a key that is given twice, of which PyYAML silently drops the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) and key.value != "<<" else key
            if name in given:
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} is given twice", problem_mark=key.start_mark)
            given.add(name)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content
