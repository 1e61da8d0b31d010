"""The command-line parser of every launcher. It reports a mistake in one line and accepts no abbreviations.

argparse alone would accept `--max-queu` as `--max-queue`, and would print the whole usage before each error. It would
also repeat the values of unknown options, which may be secrets.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from screening.runtime.argument_types import is_address


class Parser(argparse.ArgumentParser):
    """An argparse parser without abbreviations, with short errors and with suggestions for unknown options."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **keywords})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            name = rest[0].partition("=")[0]
            # The error repeats only options, because any other argument may be the second half of a secret.
            shown = repr(name) if name.startswith("-") else "that does not follow an option"
            self.error(f"unexpected argument {shown}")
        return parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_options(given)
        parsed, rest = super().parse_known_args(given, namespace)
        for value in vars(parsed).values():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and is_address(path):
                    self.error(f"{path} is not a path in a file system. Mount the store and give the path of its mount")
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")

    def _refuse_unknown_options(self, given: Sequence[str]) -> None:
        known = set(_options(self))
        for argument in given:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            if name.startswith("--") and " " not in name and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                self.error(f"unknown option {name}" + (f"; did you mean {near[0]}?" if near else ""))


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield every option of the parser and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
