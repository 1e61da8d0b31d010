"""The command line: what it prints, its arguments and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from screening_client import cli, constants


def test_a_screening_is_printed_for_people(server: Any, pictures: list[str], capsys: Any) -> None:
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == cli.OK
    out = capsys.readouterr().out
    for said in ("C (also acceptable: A)", "0.93", "tiny 1 on scripted", "appearance deformation", "shadow: two suns"):
        assert said in out
    assert "I ultimately chose AC" in out and max(map(len, out.splitlines())) <= 100


def test_control_characters_of_a_model_do_not_reach_the_terminal(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.good(reasoning="red \x1b[31m\x07 text")]
    cli.main(["screen", *pictures, "--base-url", server.url])
    assert "\x1b" not in capsys.readouterr().out


def test_json_is_the_service_s_answer(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.good(from_the_future=1)]
    arguments = ["screen", *pictures, "--json", "--mode", "direct", "--api-key", "k", "--base-url", server.url]
    assert cli.main(arguments) == cli.OK
    assert json.loads(capsys.readouterr().out)["from_the_future"] == 1
    assert b"direct" in server.received[0].body and server.received[0].headers["Authorization"] == "Bearer k"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 1), (401, 1), (422, 1), (500, 1), (408, 3), (409, 3), (429, 3), (503, 3), (504, 3)],
)
def test_each_status_has_its_exit_code(
    server: Any, pictures: list[str], quick: None, capsys: Any, status: int, code: int
) -> None:
    server.replies = [server.problem(status, "some-slug")]
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == code
    assert "some-slug" in capsys.readouterr().err


def test_an_unknown_key_is_refused_with_what_to_do(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.problem(401, "unauthenticated")]
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == cli.FAILED
    assert "set SCREENING_API_KEY" in capsys.readouterr().err


def test_unusable_files_and_settings_exit_with_2(server: Any, pictures: list[str], capsys: Any) -> None:
    assert cli.main(["screen", *pictures[:4], "missing.jpg", "--base-url", server.url]) == cli.USAGE
    assert "generated[3]: missing.jpg" in capsys.readouterr().err
    assert cli.main(["screen", *pictures, "--base-url", "nonsense"]) == cli.USAGE
    assert cli.main(["screen", *pictures, "--base-url", server.url, "--timeout", "-1"]) == cli.USAGE
    assert server.received == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["screen", "o.jpg", "a.jpg", "b.jpg"], "required: C, D"),
        (["screen", *"oabcd", "--mode", "fast"], "'cot', 'direct'"),
        (["screen", *"oabcd", "--timeout", "soon"], "--timeout: invalid float value: 'soon'"),
        (["screen", *"oabcd", "--max-retries", "-1"], "max_retries must be a whole number, 0 or more"),
        (["screen", *"oabcd", "--metadata", "sku"], "'sku' is neither key=value nor a JSON object"),
        (["screen", *"oabcd", "--metadata", "{sku}"], "--metadata is not valid JSON"),
        (["screen", *"oabcd", "--time", "5"], "unrecognized arguments: --time 5"),
        (["screen", "-", "-", *"bcd"], "only one picture can come from the standard input"),
        (["screen", "https://shop.example/o.jpg", *"abcd"], "original is a URL (https://shop.example/o.jpg)"),
        (["batch", "in.jsonl"], "required: --out"),
        (["batch", "https://shop.example/in.jsonl", "--out", "-"], "is a URL"),
        (["ready", "--base-url", "localhost:8000"], "http:// or https://"),
        (["unknown"], "invalid choice: 'unknown'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_with_2(arguments: list[str], said: str, capsys: Any) -> None:
    assert cli.main(arguments) == cli.USAGE
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "kind"), [(["screen", "o.jpg"], "UsageError"), (["screen", *"oabcd"], "InputError")]
)
def test_wrong_arguments_are_reported_as_json_too(arguments: list[str], kind: str, capsys: Any) -> None:
    assert cli.main([*arguments, "--json"]) == cli.USAGE
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, 2) and error["message"]


def test_with_json_a_refusal_is_one_document_with_everything_the_service_said(
    server: Any, pictures: list[str], capsys: Any
) -> None:
    server.replies = [server.problem(422, "image-unreadable", picture="generated[1]", request_id="req_9")]
    assert cli.main(["screen", *pictures, "--json", "--base-url", server.url]) == cli.FAILED
    error = json.loads(capsys.readouterr().out)["error"]
    expected = {
        "kind": "InvalidRequest",
        "status": 422,
        "code": "image-unreadable",
        "type": "urn:screening:problem:image-unreadable",
        "title": "A title",
        "detail": "A detail.",
        "picture": "generated[1]",
        "request_id": "req_9",
        "attempts": 1,
        "exit_code": 1,
    }
    assert expected.items() <= error.items()


def test_with_json_an_unreachable_service_is_a_document_too(pictures: list[str], quick: None, capsys: Any) -> None:
    command = ["screen", *pictures, "--json", "--base-url", "http://127.0.0.1:1", "--max-retries", "1"]
    assert cli.main(command) == cli.LATER
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["attempts"]) == ("ConnectionFailed", 2) and "status" not in error


def test_ready_reports_json(server: Any, capsys: Any) -> None:
    server.replies = [server.good(), server.problem(503)]
    codes = [cli.main(["ready", "--json", "--base-url", server.url]) for _ in range(2)]
    documents = capsys.readouterr().out
    assert codes == [cli.OK, cli.LATER]
    assert '"ready": true' in documents and '"ready": false' in documents


def test_text_that_is_not_valid_unicode_is_printed_as_json_escapes(
    server: Any, pictures: list[str], capsys: Any
) -> None:
    server.replies = [server.good(reasoning="half of a pair: \ud83d")]
    assert cli.main(["screen", *pictures, "--json", "--base-url", server.url]) == cli.OK
    assert json.loads(capsys.readouterr().out)["reasoning"] == "half of a pair: \ud83d"


@pytest.mark.slow
def test_a_terminal_that_lacks_a_character_shows_an_escape(server: Any, pictures: list[str]) -> None:
    server.replies = [server.good(reasoning="Süß 漢")]
    command = [sys.executable, "-m", "screening_client", "screen", *pictures, "--base-url", server.url]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "S\\xfc\\xdf" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout)["reasoning"] == "Süß 漢"


def test_metadata_comes_as_pairs_and_objects(server: Any, pictures: list[str]) -> None:
    given = ["--metadata", "sku=47=11", "--metadata", '{"size": [1, 2]}', "--metadata", "empty="]
    assert cli.main(["screen", *pictures, *given, "--base-url", server.url]) == cli.OK
    assert b'{"sku": "47=11", "size": [1, 2], "empty": ""}' in server.received[0].body


def test_the_threshold_for_review_is_sent_if_it_is_given(server: Any, pictures: list[str], capsys: Any) -> None:
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == cli.OK
    assert cli.main(["screen", *pictures, "--review-below", "0.8", "--base-url", server.url]) == cli.OK
    without, given = (received.body for received in server.received)
    assert b"review_below" not in without and b'name="review_below"\r\n\r\n0.8\r\n' in given
    for wrong in ("1.5", "-0.1", "nan"):
        assert cli.main(["screen", *pictures, f"--review-below={wrong}", "--base-url", server.url]) == cli.USAGE
        assert "it must be a number from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("retries", [0, 3])
def test_max_retries_are_the_attempts_after_the_first(
    server: Any, pictures: list[str], quick: None, retries: int
) -> None:
    server.replies = [server.problem(500)]
    command = ["screen", *pictures, "--base-url", server.url, "--max-retries", str(retries)]
    assert cli.main(command) == cli.FAILED
    assert len(server.received) == retries + 1


@pytest.mark.slow
def test_a_timeout_limits_the_whole_request(server: Any, pictures: list[str]) -> None:
    server.replies = [type(server.good())(hang=True)]
    assert cli.main(["screen", *pictures, "--base-url", server.url, "--timeout", "0.2"]) == cli.LATER
    assert len(server.received) <= 1, "it is not sent again"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_picture_can_come_from_the_standard_input(server: Any, pictures: list[str], name: str) -> None:
    original, *generated = pictures
    command = [sys.executable, "-m", "screening_client", "screen", name, *generated, "--base-url", server.url]
    subprocess.run(command, input=Path(original).read_bytes(), capture_output=True, check=True)
    assert Path(original).read_bytes() in server.received[0].body


def test_the_version_is_printed(capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"screening-client {constants.VERSION}\n"


def test_an_unreachable_service_exits_with_3(pictures: list[str], quick: None) -> None:
    assert cli.main(["screen", *pictures, "--base-url", "http://127.0.0.1:1"]) == cli.LATER


def test_an_unreadable_answer_exits_with_4(server: Any, pictures: list[str], capsys: Any) -> None:
    server.replies = [server.good(outcome="unreadable", choice=None, acceptable=[], unreadable_reason="no_answer")]
    assert cli.main(["screen", *pictures, "--base-url", server.url]) == cli.UNREADABLE
    assert "no_answer" in capsys.readouterr().out


def test_ready_reports_a_ready_service(server: Any, quick: None, capsys: Any) -> None:
    assert cli.main(["ready", "--base-url", server.url]) == cli.OK
    server.replies = [server.problem(503)]
    assert cli.main(["ready", "--base-url", server.url]) == cli.LATER
    assert cli.main(["ready", "--wait", "0.05", "--base-url", server.url]) == cli.LATER


EXIT_CODES = (
    cli.OK,
    cli.FAILED,
    cli.USAGE,
    cli.LATER,
    cli.UNREADABLE,
    cli.OUTPUT,
    cli.INTERRUPTED,
    cli.CLOSED_PIPE,
    cli.TERMINATED,
)


@pytest.mark.parametrize("command", [[], ["screen"], ["batch"], ["ready"]])
def test_help_names_every_exit_code(capsys: Any, command: list[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command, "--help"])
    out = capsys.readouterr().out
    assert all(f"\n    {code} " in out for code in EXIT_CODES)


def test_the_readme_names_every_exit_code(repository: Path) -> None:
    readme = (repository / "clients/python/README.md").read_text()
    assert all(f"\n| {code} | " in readme for code in EXIT_CODES)


@pytest.mark.slow
def test_the_readme_names_every_command_and_option(repository: Path) -> None:
    readme = (repository / "clients/python/README.md").read_text()
    for command in ("screen", "batch", "ready"):
        help_text = subprocess.run(
            [sys.executable, "-m", "screening_client", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        options = {word.strip("[],") for word in help_text.split() if word.strip("[],").startswith("--")} - {"--help"}
        assert f"screening-client {command}" in readme
        assert [option for option in sorted(options) if option not in readme] == []
