"""The command `python -m service`. It parses its options first and imports the heavy modules afterwards."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from screening import __version__
from screening.runtime.environment import use_utf8
from screening.runtime.exits import run_while_output_is_read

if TYPE_CHECKING:
    from service.config.settings import Settings
    from service.engines.protocol import Engine

EXAMPLES = """\
examples:
  python -m service --checkpoint models/tiny
  python -m service --checkpoint models/tiny --host 0.0.0.0 --port 8000 --max-concurrent 32
  python -m service --engine scripted            # no model: a deterministic stand-in for laptops and tests

other commands (each has --help):
  python -m service key NAME --scope screen      # make an API key
  python -m service database upgrade             # upkeep of the decision store
  python -m service prune
  python -m service erase --product SKU

work for reviewers (each has --help):
  python -m service review queue --count 200
  python -m service review import DIR --batch NAME
  python -m service review gold list

then:
  curl -s localhost:8000/readyz
  curl -s localhost:8000/screen -F original=@o.jpg -F generated=@a.jpg -F generated=@b.jpg \\
       -F generated=@c.jpg -F generated=@d.jpg

Each option can also be set by the environment variable in square brackets, for example --max-queue by
SCREENING_MAX_QUEUE. An option on the command line overrides the variable.
docs/settings.md explains the settings, and docs/http-api.md the HTTP API.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it receives a signal to stop, or one of its other commands. Returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_while_output_is_read(lambda: _main(arguments))


def _main(argv: Sequence[str]) -> int:
    from service.config.settings import SettingsError, load

    if argv and argv[0] == "key":
        from service.config import key_command

        return key_command.main(argv[1:])
    if argv and argv[0] in ("database", "prune", "erase"):
        from service.decisions import commands

        return commands.main(argv)
    if argv and argv[0] == "review":
        from service.review import commands as review_commands

        return review_commands.main(argv[1:])
    parser = _parser()
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        return _serve(load(given))
    except SettingsError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    from screening.runtime.command_line import Parser
    from service.config.launch_options import add_options

    parser = Parser(
        prog="python -m service",
        usage="python -m service [OPTION VALUE] …",
        description="Serve POST /screen: which of four generated pictures may be shown for a product?",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"screening {__version__}")
    add_options(parser)
    return parser


def _serve(settings: Settings) -> int:
    from service.logs import configure
    from service.server.environment import prepare

    configure(settings.log_level)
    prepare(os.environ)
    from service.config.traces_endpoint import traces_endpoint
    from service.server.launch import CannotStart, serve
    from service.tracing import exporting

    try:
        with exporting(traces_endpoint(os.environ)):
            return serve(settings, _engine(settings))
    except CannotStart as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _engine(settings: Settings) -> Engine:
    from service.engines.table import create_engine

    return create_engine(settings)


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
