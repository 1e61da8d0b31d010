"""Mistakes on a command line: one line, no guesses, no secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from screening.runtime.command_line import Parser


def error_of(parser: Parser, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) <= 2
    return text


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="tool")
    parser.add_argument("--max-queue", type=int)
    parser.add_argument("--reason")
    parser.add_argument("rest", nargs="*")
    return parser


@pytest.mark.parametrize("arguments", [["--max-queu", "3"], ["--max-queu=3"], ["--max"], ["--max-queues", "3"]])
def test_an_unknown_option_is_refused_with_the_nearest_name(parser, arguments, capsys) -> None:
    assert "did you mean --max-queue?" in error_of(parser, arguments, capsys)


def test_the_value_of_an_unknown_option_is_not_repeated(parser, capsys) -> None:
    assert "hunter2" not in error_of(parser, ["--api-kez=hunter2"], capsys)
    assert "hunter2" not in error_of(parser, ["--api-kez", "hunter2"], capsys)


def test_a_value_without_an_option_is_not_repeated(capsys) -> None:
    parser = Parser(prog="tool")
    parser.add_argument("--api-keys")
    for arguments in (["hunter2"], ["--api-keys", "one", "hunter2"], ["--api-keys=one,", "hunter2"]):
        assert "unexpected argument that does not follow an option" in (message := error_of(parser, arguments, capsys))
        assert "hunter2" not in message
    assert "unexpected argument '-x'" in error_of(parser, ["-x"], capsys)


def test_a_wrong_value_names_its_option(parser, capsys) -> None:
    assert "--max-queue" in error_of(parser, ["--max-queue", "many"], capsys)


@pytest.mark.parametrize("given", [["--out", "s3://bucket/x"], ["--out=file:///x"], ["--data", "here", "gs://bucket"]])
def test_an_address_is_not_taken_for_a_path(given, parser, capsys) -> None:
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path, nargs="+")
    assert "not a path in a file system. Mount the store" in error_of(parser, given, capsys)


def test_an_abbreviation_after_two_dashes_belongs_to_another_command(parser) -> None:
    assert parser.parse_args(["--", "--max-queu", "3"]).rest == ["--max-queu", "3"]


def test_text_with_blanks_is_a_value(parser) -> None:
    assert parser.parse_args(["--reason=--bad -- worse", "-- really"]).rest == ["-- really"]


def test_options_of_a_command_are_known_to_its_own_command_only(capsys) -> None:
    parser = Parser(prog="tool")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("make").add_argument("--colour")
    commands.add_parser("paint").add_argument("--brush")
    assert parser.parse_args(["make", "--colour", "red"]).colour == "red"
    assert "did you mean --colour?" in error_of(parser, ["make", "--color", "red"], capsys)
    assert "tool make: unknown option --brush" in error_of(parser, ["make", "--brush", "x"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("service", "--max-queu", "3"),
        ("service", "--checkpoint"),
        ("service", "models/tiny"),
        ("service",),
        ("trainer", "split", "--inptu", "x"),
        ("trainer", "annotate", "truth", "--dat", "x"),
        ("trainer", "splitt"),
        ("loadtest", "bench", "--base-ur", "x"),
    ],
)
def test_a_mistake_costs_two_lines_in_every_launcher(arguments, repository) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and 1 <= len(done.stderr.splitlines()) <= 2, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["service", "trainer", "loadtest"])
def test_every_launcher_says_its_version(launcher, repository) -> None:
    done = subprocess.run([sys.executable, "-m", launcher, "--version"], cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "screening")


@pytest.mark.parametrize("launcher", ["service", "trainer", "loadtest"])
def test_every_launcher_uses_utf8_in_every_locale(launcher, repository) -> None:
    # In an ASCII locale, libraries would read their own files as ASCII.
    assert "…" in run_in_ascii(["-m", launcher, "--help"], repository)


@pytest.mark.parametrize(("options", "mode"), [([], "1"), (["-X", "utf8=0"], "0")])
def test_a_locale_that_cannot_be_left_is_tried_once(options, mode, repository) -> None:
    code = "from screening.runtime.environment import use_utf8; use_utf8(); import sys; print(sys.flags.utf8_mode)"
    assert run_in_ascii([*options, "-c", code], repository).strip() == mode


def run_in_ascii(arguments: list[str], repository: Path) -> str:
    environment = os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
