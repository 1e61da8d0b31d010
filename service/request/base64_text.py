"""Decodes base64 text in every unambiguous form, and otherwise says which character is wrong and where.

A text may have 30 million characters and may be hostile, so every step is a single pass in C. Regular expressions over
the whole text would block other requests for seconds.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote

_BLANKS = b" \t\r\n\f\v"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
"""Translates the URL-safe alphabet of RFC 4648, section 5, to the standard one of section 4."""
_ESCAPED = ("%2B", "%2b", "%2F", "%2f", "%3D", "%3d", "%0A", "%0a", "%0D", "%0d", "%20")
"""Characters that may be percent-encoded in data: URLs: `+`, `/`, `=` and line breaks."""
_LONE_SPACE = re.compile(rb"(?<=\S) (?=\S)")
_SHORTEST_LINE = 60
"""Minimum number of characters in a line of base64 text; PEM lines have 64 and MIME lines 76."""


class NotBase64(ValueError):
    """The text is not base64. The message names the wrong character; positions start at 1."""


def decode(text: str) -> bytes:
    """Decode base64 text or a `data:` URL.

    Both the standard and the URL-safe alphabet are accepted, with or without padding, in one line or several.

    Raises:
        NotBase64: the text is not base64.
    """
    text = text.lstrip(_BLANKS.decode())
    if text[:5].lower() != "data:":
        return _decode(text, "character", 0)
    head, comma, payload = text.partition(",")
    if not comma or not head.lower().rstrip().endswith(";base64"):
        raise NotBase64("the data: URL is not base64; it must begin with data:image/…;base64 and a comma")
    if "%" not in payload:
        return _decode(payload, "character", len(head) + 1)
    for code in _ESCAPED:
        payload = payload.replace(code, unquote(code))
    return _decode(payload, "after the comma and percent-decoding, character", 0)


def _decode(text: str, position: str, offset: int) -> bytes:
    """
    Args:
        position: words that precede a character's position in a message.
        offset: number of characters that precede `text` in the caller's value.
    """

    def wrong(at: int, why: str) -> NotBase64:
        return NotBase64(f"{position} {offset + at + 1} is {text[at]!a}, {why}")

    try:
        encoded = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise wrong(error.start, "which is not a base64 character") from None
    if foreign := encoded.translate(None, _ALPHABET + _BLANKS):
        hint = "; send the bytes of the file, not its name" if len(text) <= 255 else ""
        raise wrong(encoded.index(foreign[:1]), f"which is not a base64 character{hint}")
    digits = encoded.rstrip(b"=" + _BLANKS)
    if (early := digits.find(b"=")) >= 0:
        raise wrong(early, "which is allowed only at the end")
    if (space := _lost_plus(digits)) is not None:
        raise wrong(space, "perhaps a + that was not escaped in a form or URL")
    if encoded.count(b"=") > 2:
        raise NotBase64("the text ends in more than two =")
    letters = digits.translate(_TO_STANDARD, _BLANKS)
    if len(letters) % 4 == 1:
        raise NotBase64("the last group of characters is incomplete, so the end of the text is missing")
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def _lost_plus(digits: bytes) -> int | None:
    """Return the position of a space between two characters, which may be a `+` that form decoding replaced.

    Spaces at equal distances are folded line breaks instead.
    """
    spaces = digits.count(b" ")
    if not spaces or (lone := _LONE_SPACE.search(digits)) is None:
        return None
    if spaces <= len(digits) // _SHORTEST_LINE and len({len(line) for line in digits.split(b" ")[:-1]}) == 1:
        return None
    return lone.start()
