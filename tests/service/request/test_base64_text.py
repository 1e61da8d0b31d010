"""Base64 text: every form with one meaning is decoded; of everything else the first wrong character is named."""

from __future__ import annotations

import base64
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.request.base64_text import NotBase64, decode

DATA = bytes(range(256)) * 3
TEXT = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_both_alphabets_are_decoded_with_and_without_padding(data, url_safe, padded) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    assert decode(text if padded else text.rstrip("=")) == data


@pytest.mark.parametrize("separator", ["\n", "\r\n", " ", "\r\n\t ", "\n\n"])
@pytest.mark.parametrize("width", [64, 76])
def test_line_breaks_are_ignored_also_where_they_were_folded_to_spaces(separator, width) -> None:
    assert decode(separator.join(textwrap.wrap(TEXT, width)) + "\n") == DATA


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;charset=x;Base64,{URL_SAFE.rstrip('=')}",
        f"data:;base64,{TEXT}",
        f"data:image/jpeg;base64,{quote(TEXT, safe='')}",
        f"data:image/jpeg;base64,{TEXT.replace('+', '%2b').replace('/', '%2f')}",
    ],
)
def test_data_urls_are_decoded(text) -> None:
    assert decode(text) == DATA


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT[:12] + "!" + TEXT[12:], "character 13 is '!'"),
        ("é" + TEXT, r"character 1 is '\xe9'"),
        (TEXT + "\x00", rf"character {len(TEXT) + 1} is '\x00'"),
        (TEXT[:4] + "\u2003" + TEXT[4:], r"character 5 is '\u2003'"),
        (TEXT[:8] + "%2B" + TEXT[8:], "character 9 is '%'"),
        ("QUI=" + TEXT, "character 4 is '=', which is allowed only at the end"),
        (TEXT + "====", "more than two ="),
        (TEXT.rstrip("=")[:5], "the end of the text is missing"),
        (f"data:image/png;base64,{TEXT[:3]}#{TEXT}", "character 26 is '#'"),
        (f"data:image/png;base64,{TEXT[:3]}%zz{TEXT}", "percent-decoding, character 4 is '%'"),
        ("a.jpg", "character 2 is '.', which is not a base64 character; send the bytes of the file, not its name"),
        (f"data:image/png,{TEXT}", "the data: URL is not base64"),
        ("data:", "the data: URL is not base64"),
        (TEXT[:10] + " " + TEXT[11:200] + " " + TEXT[201:], "character 11 is ' ', perhaps a +"),
    ],
)
def test_the_first_wrong_character_is_named_with_its_place(text, words) -> None:
    with pytest.raises(NotBase64) as caught:
        decode(text)
    assert words in str(caught.value)
