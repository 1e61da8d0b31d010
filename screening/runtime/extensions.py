"""Extension points: engines, rewards and metrics, by the name in a table or by where the code is.

A table holds what this repository ships. Anything else is named as `package.module:name`, and is imported when it is
used. The same form serves every table, in settings, recipes and commands alike. It needs no packaging and no
registration: a module on the Python path is enough, and the setting itself says which code runs. Dimensions are not
loaded this way: data, answers and checkpoints of everyone depend on them, so they stand in `screening.task` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TypeVar, cast

from screening.errors import UserError

Entry = TypeVar("Entry")


class ExtensionError(UserError, ValueError):
    """A name stands for nothing that can be used; the message says what it may be."""


def find(name: str, table: Mapping[str, Entry], what: str) -> Entry:
    """The entry of a table, or the function that `package.module:name` names.

    Args:
        what: what the table holds, in one word for messages: `reward`.

    Raises:
        ExtensionError: the table has no such entry, or the module cannot be imported or lacks the name.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ExtensionError(
            f"there is no {what} {name!r}. Use one of {', '.join(table)}, or package.module:name for your own"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExtensionError(f"the {what} {name!r} cannot be loaded: {error}") from error
    if not callable(found):
        raise ExtensionError(f"the {what} {name!r} is not a function but {type(found).__name__}")
    return cast("Entry", found)
