"""The installed package has types that checkers see and its licence, and everything in it is documented."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import screening_client
import screening_client.testing
from screening_client import AsyncClient, Client, OptionVerdict, Screening, ScreeningClientError, StatusError
from screening_client.decisions import Decisions

pytestmark = pytest.mark.slow

CALLS = (Decisions.list, Decisions.picture, Decisions.feedback)


def built(repository: Path, folder: Path, hook: str) -> zipfile.ZipFile:
    """Build a wheel of a copy of the package with a hook of setuptools (PEP 517, PEP 660)."""
    copy = Path(shutil.copytree(repository / "clients/python", folder / "copy"))
    program = f"import setuptools.build_meta as backend; backend.{hook}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=copy, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_a_wheel_has_the_types_and_the_licence(repository: Path, tmp_path: Path) -> None:
    with built(repository, tmp_path, "build_wheel") as wheel:
        licence = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
        assert "screening_client/py.typed" in wheel.namelist() and len(licence) == 1
        assert wheel.read(licence[0]) == (repository / "LICENSE").read_bytes()
        sources = {path.name for path in (repository / "clients/python/screening_client").glob("*.py")}
        assert {f"screening_client/{name}" for name in sources} <= set(wheel.namelist())


def test_an_editable_install_is_a_path_that_type_checkers_follow(repository: Path, tmp_path: Path) -> None:
    with built(repository, tmp_path, "build_editable") as wheel:
        paths = [wheel.read(name).decode().strip() for name in wheel.namelist() if name.endswith(".pth")]
        assert paths == [str(tmp_path / "copy")]
        assert not [name for name in wheel.namelist() if "finder" in name]


RIGHT = """
from typing import assert_type
from screening_client import AsyncClient, Client, OptionVerdict, RawResponse, Screening

def use(client: Client) -> None:
    screening = client.screen(original="o", generated=["a", b"b", "c", "d"], review_below=0.5)
    assert_type(screening, Screening)
    assert_type(screening.options["B"], OptionVerdict)
    assert_type(screening.best, OptionVerdict | None)
    assert_type(client.with_raw_response.screen(original="o", generated=["a"] * 4, mode="direct"), RawResponse)
    assert_type(client.with_options(max_retries=0), Client)

async def use_async(client: AsyncClient) -> None:
    assert_type(await client.screen(original="o", generated=["a"] * 4), Screening)
    assert_type(await client.with_raw_response.screen(original="o", generated=["a"] * 4), RawResponse)
"""

WRONG = """\
from screening_client import Client
client = Client()
client.screen(original="o", generated={"a"})
screening = client.screen(original="o", generated=["a"], mode="fast")
client.with_raw_response.screen(original="o")
screening.options["E"]
screening.outcome == "unreadible"
screening.options[0].option == "N"
"""


def test_a_type_checker_sees_every_value(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "."],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(repository / "clients/python")},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = {line.partition(": error")[0] for line in done.stdout.splitlines() if ": error:" in line}
    assert lines == {f"wrong.py:{number}" for number in range(3, 9)}, done.stdout + done.stderr


def public_names() -> set[str]:
    """Everything that the reference must name: exports, and the public members of what users hold."""
    names = {name for name in screening_client.__all__ if name != "__version__"}
    resources = (Decisions, screening_client.DecisionSummary, screening_client.DecisionPicture)
    resources += (screening_client.Decision, screening_client.Feedback)
    for kind in (Client, AsyncClient, Screening, OptionVerdict, screening_client.RawResponse, *resources):
        names |= {name for name in dir(kind) if not name.startswith("_") and name not in dir(object)}
        names |= set(getattr(kind, "__dataclass_fields__", {}))
    for kind in (screening_client.ScreenRequest, screening_client.ClientTimeout, screening_client.CheckpointInfo):
        names |= set(kind.__dataclass_fields__)
    error = StatusError("x")
    names |= set(vars(error)) | {name for name in dir(ScreeningClientError) if name in ("code",)} | {"picture"}
    ours = (each for each in vars(screening_client.testing).items() if not each[0].startswith("_"))
    names |= {name for name, each in ours if getattr(each, "__module__", "") == "screening_client.testing"}
    return names


def test_the_reference_names_everything_public(repository: Path) -> None:
    page = (repository / "docs/sdk.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[A-Za-z_]\w*", " ".join(re.findall(r"`([^`\n]+)`", page))))
    assert not public_names() - named


def test_the_reference_names_every_argument_and_variable(repository: Path) -> None:
    page = (repository / "docs/sdk.md").read_text(encoding="utf-8")
    source = "".join(path.read_text() for path in (repository / "clients/python/screening_client").glob("*.py"))
    variables = set(re.findall(r"SCREENING_[A-Z_]+|SSL_CERT_[A-Z]+|NO_PROXY|[A-Z]+_PROXY", source))
    arguments = {
        name
        for call in (*CALLS, Client.__init__, Client.screen, Client.screen_many, Client.with_options)
        for name in call.__annotations__
        if name != "return"
    }
    assert not [name for name in variables | arguments if f"`{name}`" not in page]


def test_the_example_of_the_stand_in_runs(repository: Path) -> None:
    (example,) = re.findall(r"```python\n([^`]*FakeService[^`]*)```", (repository / "docs/sdk.md").read_text())
    exec(compile(example, "docs/sdk.md", "exec"), {})
