"""Lines of a keys file, right and wrong, and the command that makes them."""

from __future__ import annotations

import hashlib

import pytest

from service.__main__ import main
from service.config.named_keys import keys_in

A, B, C = "a" * 64, "B" * 64, "c" * 64


def test_a_line_has_a_name_scopes_and_a_hash() -> None:
    text = f"# callers\nshop screen {A}\r\n\n  shop\tscreen,feedback  {B}  # the new key\nlead admin {C}"
    first, second, lead = keys_in(text)
    assert first == ("shop", A, {"screen"})
    assert second == ("shop", B.lower(), {"screen", "feedback"})
    assert lead == ("lead", C, {"admin", "feedback", "review"}), "an admin may read, correct and review"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no key in it"),
        ("# only a comment\n", "there is no key in it"),
        ("secret", "line 1: this is not NAME SCOPE"),
        (f"shop screen {A}\nshop screen secret", "line 2: the hash is not 64 hexadecimal digits"),
        (f"shop screen {A[:-1]}", "line 1: the hash is not 64"),
        (f"shop screen, feedback {A}", "line 1: this is not NAME SCOPE"),
        (f"shop secret {A}", "line 1: the scopes must be some of screen, feedback, review, admin"),
        (f"shop screen, {A}", "line 1: the scopes must be some of"),
        (f"secret! screen {A}", "line 1: the name may have"),
        (f"\none screen {A}\ntwo admin {A.upper()}", "line 3: an earlier line has the same hash"),
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(text, words) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        keys_in(text)
    assert "secret" not in str(refused.value)


def test_the_command_prints_a_line_for_the_file_and_the_key_beside_it(capsys) -> None:
    assert main(["key", "shop", "--scope", "screen", "--scope", "feedback"]) == 0
    line, note = capsys.readouterr()
    key = note.removeprefix("key: ").strip()
    assert keys_in(line) == (("shop", hashlib.sha256(key.encode()).hexdigest(), {"screen", "feedback"}),)
    assert len(key) >= 43 and key not in line, "256 random bits"


@pytest.mark.parametrize("words", [["a b", "--scope", "screen"], ["shop"], ["shop", "--scope", "all"]], ids=str)
def test_the_command_refuses_what_no_line_may_have(words, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["key", *words])
    assert ended.value.code == 2 and capsys.readouterr().out == ""
