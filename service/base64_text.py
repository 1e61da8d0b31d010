"""The bytes behind base64 text, in every form that has one meaning; otherwise, which character is wrong and where."""

from __future__ import annotations

import binascii
import re

_SPACES = b" \t\r\n\f\v"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
"""The URL-safe alphabet of RFC 4648, section 5, in the one of section 4."""

_SHORTEST_LINE = 60
"""Characters of a line of base64 text; PEM has 64, MIME 76."""

_FOREIGN = re.compile(r"[^A-Za-z0-9+/\-_= \t\r\n\f\v]")
_FOREIGN_IN_URL = re.compile(r"[^A-Za-z0-9+/\-_= \t\r\n\f\v%]|%(?!2[BbFf0]|3[Dd]|0[AaDd])")
"""Inside a data: URL, `+`, `/`, `=` and line breaks may be percent-encoded."""
_EARLY_PADDING = re.compile(r"=(?=[ \t\r\n\f\v]*[^= \t\r\n\f\v])")
_LONE_SPACE = re.compile(r"(?<=\S) (?=\S)")


class NotBase64(ValueError):
    """The text is not base64. The message says which character is wrong; positions are counted from 1."""


def decode(text: str) -> bytes:
    """Decode base64 text or a `data:` URL.

    Standard and URL-safe alphabets, with and without padding, in one line or several.

    Raises:
        NotBase64: the text is something else.
    """
    if text[:5].lower() != "data:":
        return _decode(text, 0, _FOREIGN)
    head, comma, payload = text.partition(",")
    if not comma or not head.lower().rstrip().endswith(";base64"):
        raise NotBase64("the data: URL is not base64. It must begin with data:image/…;base64, and a comma")
    return _decode(payload, len(head) + 1, _FOREIGN_IN_URL)


def _decode(text: str, offset: int, foreign: re.Pattern[str]) -> bytes:
    """
    Args:
        offset: characters that stand before `text` in what the caller sent.
        foreign: finds the first character that must not be there.
    """
    _refuse_lost_plus(text, offset)
    if foreign is _FOREIGN_IN_URL and "%" in text and foreign.search(text) is None:
        text, offset = re.sub("%(..)", lambda code: chr(int(code[1], 16)), text), 0
    try:
        letters = text.encode("ascii").translate(_TO_STANDARD, _SPACES)
        digits = letters.rstrip(b"=")
        if len(letters) - len(digits) > 2:
            raise NotBase64("the text ends in more than two =")
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except NotBase64:
        raise
    except ValueError:
        raise NotBase64(_fault(text, offset, foreign)) from None


def _refuse_lost_plus(text: str, offset: int) -> None:
    """A space between two characters may be a `+` that was decoded as a form; at equal distances it is a line break."""
    if " " not in text or (lone := _LONE_SPACE.search(text)) is None:
        return
    folded = text.count(" ") <= len(text) // _SHORTEST_LINE
    if not folded or len({len(line) for line in text.split(" ")[:-1]}) > 1:
        raise NotBase64(
            f"character {offset + lone.start() + 1} is a space. Was it a + that was not escaped in a form or URL?"
        )


def _fault(text: str, offset: int, foreign: re.Pattern[str]) -> str:
    if (wrong := foreign.search(text)) is not None:
        return f"character {offset + wrong.start() + 1} is {wrong[0][0]!a}, which base64 does not have"
    if (early := _EARLY_PADDING.search(text)) is not None:
        return f"character {offset + early.start() + 1} is '=', which may stand only at the end"
    return "the last group of characters is incomplete, so the end of the text is missing"
