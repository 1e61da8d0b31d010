"""A command line with several commands: `python -m trainer COMMAND …` and `python -m loadtest COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int | None`. It is imported only when it is
chosen, so `--help` answers at once and a missing dependency of one command does not stop another.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from screening import __version__
from screening.errors import UserError
from screening.runtime.command_line import Parser
from screening.runtime.exits import BAD_INPUT, DISK_FULL, STOPPED, disk_full, run_while_output_is_read

INSTALL = "make install (with EXTRA=gpu on a machine with an NVIDIA GPU)"
"""The command that installs every package, as errors name it."""

Describe = Callable[[ModuleType, str], dict[str, Any]]
"""From a command's module and its one-line summary to further arguments of its parser, such as `description`."""


def _summary_only(_: ModuleType, summary: str) -> dict[str, Any]:
    return {"description": summary}


@dataclass(frozen=True)
class CommandLine:
    """The commands of one program."""

    program: str
    """Name of the package that `python -m` runs."""
    commands: Mapping[str, tuple[str, str]]
    """Command → (module, summary in one line), in the order of the overview."""
    heading: str = "commands:"
    notes: str = ""
    """Text below the list of commands."""
    describe: Describe = _summary_only

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one command.

        Returns:
            The exit status: what the command returns, `BAD_INPUT` for wrong arguments or files, `STOPPED` after
            Ctrl-C, `DISK_FULL` when a file could not be written for lack of space, `CLOSED_PIPE` when the program that
            read the output has ended.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        return run_while_output_is_read(lambda: self._main(arguments))

    def _main(self, arguments: Sequence[str]) -> int:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(self._overview())
            return 0 if arguments else BAD_INPUT
        if arguments[0] == "--version":
            print(f"screening {__version__}")
            return 0
        name, rest = arguments[0], arguments[1:]
        if name not in self.commands:
            known = ", ".join(self.commands)
            print(f"{self.program}: unknown command {name!r}; choose from {known}", file=sys.stderr)
            return BAD_INPUT
        return self._run(name, rest)

    def _run(self, name: str, arguments: Sequence[str]) -> int:
        """Run a command and turn every error that a user can act on into one line."""
        args = argparse.Namespace()
        try:
            command = importlib.import_module(self.commands[name][0])
            self._parser(name, command).parse_args(arguments, args)
            return int(command.run(args) or 0)
        except ModuleNotFoundError as error:  # also from an import inside the command's `run`
            return _failed(
                f"the command {name!r} cannot start because the module {error.name!r} is missing. "
                f"Install it with: {INSTALL}",
                1,
            )
        except UserError as error:
            if error.exit_status == BAD_INPUT and (full := disk_full(error, _output(args))):
                return _failed(full, DISK_FULL)
            return _failed(" ".join(filter(None, [_sentence(error), error.advice])), error.exit_status)
        except KeyboardInterrupt:
            print("stopped before the end; run the same command again", file=sys.stderr)
            return STOPPED
        except BrokenPipeError:
            raise
        except Exception as error:
            if full := disk_full(error, _output(args)):
                return _failed(full, DISK_FULL)
            if isinstance(error, OSError):
                return _failed(str(error), BAD_INPUT)
            raise

    def _parser(self, name: str, command: ModuleType) -> Parser:
        described = self.describe(command, self.commands[name][1])
        parser = Parser(prog=f"python -m {self.program} {name}", **described)
        command.add_arguments(parser)
        return parser

    def _overview(self) -> str:
        width = max(map(len, self.commands))
        lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in self.commands.items()]
        usage = f"usage: python -m {self.program} COMMAND [--help] …"
        return "\n".join([usage, "", self.heading, *lines, *(["", self.notes] if self.notes else [])])


def _output(args: argparse.Namespace) -> Path | None:
    """The directory that a command writes."""
    return getattr(args, "out", None) or getattr(args, "store", None)


def _sentence(error: UserError) -> str:
    """The message, with a full stop where advice follows it."""
    return f"{str(error).rstrip('.')}." if error.advice else str(error)


def _failed(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
