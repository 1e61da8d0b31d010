"""`python -m service key`: makes an API key and the line by which the service knows it."""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
import sys
from collections.abc import Sequence

from screening.runtime.command_line import Parser
from service.config.named_keys import NAME, SCOPES

_EPILOG = """\
The standard output gets the line for the keys file, and the standard error gets the key, which is stored nowhere:
  python -m service key shop --scope screen >> keys
"""


def main(argv: Sequence[str]) -> int:
    """Print a new key and its line; returns 0, or 2 for wrong arguments."""
    parser = Parser(
        prog="python -m service key",
        description="Make an API key.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", type=_name, metavar="NAME", help="name of the caller in logs and decisions")
    parser.add_argument(
        "--scope", required=True, action="append", choices=SCOPES,
        help="what the key may do; give it again for each further scope; admin includes feedback and review",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    key = secrets.token_urlsafe(32)
    print(f"key: {key}", file=sys.stderr)
    print(arguments.name, ",".join(dict.fromkeys(arguments.scope)), hashlib.sha256(key.encode()).hexdigest())
    return 0


def _name(text: str) -> str:
    if re.fullmatch(NAME, text) is None:
        raise argparse.ArgumentTypeError("give 1 to 64 letters, digits, dots, hyphens and underscores")
    return text
