"""Which package and folder may import which (docs/architecture.md), checked in the source and in fresh interpreters."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = {
    "screening": (
        "task errors boxes intervals answer prompt calibration image_files images runtime checkpoint inference "
        "confidence decision"
    ),
    "service": (
        "errors ids logs tracing config schemas engines metrics timings admission checkpoints request decisions review "
        "review_page pipeline http app server"
    ),
    "trainer": (
        "labels yaml_file partial_records records data_directory products shares judged picture_verdicts metrics "
        "reward prompt_texts runs endpoint data evaluation catalogue training release research"
    ),
    "loadtest": "console fleet results load targets commands",
}
"""Folders and modules of each package, lowest first: each may import those before it, and nothing after it.
`__init__` imports nothing of ours, and `__main__` may import everything."""

OURS = {"screening", "service", "trainer", "loadtest", "screening_client"}
FOLDERS = {
    "screening": "screening",
    "service": "service",
    "trainer": "trainer",
    "screening_client": "clients/python/screening_client",
    "loadtest": "loadtest",
}
ENGINE_MODULE = "service/engines/vllm_engine.py"

ALLOWED = {
    "screening": {"screening"},
    "service": {"service", "screening"},
    "trainer": {"trainer", "screening"},
    "screening_client": {"screening_client"},
    "loadtest": {"loadtest", "screening", "screening_client"},
}


def sources(repository: Path, package: str) -> list[Path]:
    files = sorted((repository / FOLDERS[package]).rglob("*.py"))
    assert files, f"no source files of {package}: has its folder moved?"
    return files


def imported(path: Path) -> set[str]:
    """Top names of everything that a file imports, at its top or inside a function, by statement or by name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return {name.partition(".")[0] for name in names}


def loaded_after(repository: Path, *modules: str) -> set[str]:
    """Top names in `sys.modules` of a fresh interpreter after importing `modules`."""
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules(repository: Path, package: str) -> list[str]:
    """Dotted names of a package's modules, without `__main__`: importing it is running it."""
    root = (repository / FOLDERS[package]).parent
    paths = [path.relative_to(root).with_suffix("") for path in sources(repository, package)]
    # Alembic runs migrations as scripts; they are not imported as modules.
    paths = [path for path in paths if path.name != "__main__" and "migrations" not in path.parts]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_imports_only_what_it_may(repository, package):
    wrong = {
        path.relative_to(repository).as_posix(): sorted(over)
        for path in sources(repository, package)
        if (over := (imported(path) & OURS) - ALLOWED[package])
    }
    assert not wrong


def layer(module: str) -> str:
    """`service.http.routes` → `http`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Dotted names of the modules in `known` that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & known


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_has_its_place_among_the_layers(repository, package):
    present = {layer(module) for module in modules(repository, package)} - {"__init__"}
    assert present == set(LAYERS[package].split())


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_one_way(repository, package):
    order = ["__init__", *LAYERS[package].split()]
    known = set(modules(repository, package))
    wrong = []
    for path in sources(repository, package):
        module = ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        if path.name == "__main__.py":
            continue
        place = order.index(layer(module))
        wrong += [f"{module} -> {name}" for name in imported_modules(path, known) if order.index(layer(name)) > place]
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_the_architecture_page_states_the_layers(repository, package):
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{package}` |"))
    assert re.findall(r"`(\w+)`", row.split("|")[2]) == LAYERS[package].split()


def test_vllm_is_imported_by_one_module_of_the_service(repository):
    importers = [p.relative_to(repository).as_posix() for p in sources(repository, "service") if "vllm" in imported(p)]
    assert importers == [ENGINE_MODULE]


@pytest.mark.parametrize("package", ["screening", "screening_client"])
def test_the_source_of_a_light_package_names_no_engine(repository, package):
    """`screening/inference`, which configures and asks vLLM, may import them inside functions."""
    for path in sources(repository, package):
        if path.is_relative_to(repository / "screening" / "inference"):
            continue
        assert not imported(path) & {"torch", "vllm", "transformers"}, path


def test_the_contract_loads_neither_torch_nor_an_engine(repository):
    loaded = loaded_after(repository, *modules(repository, "screening"))
    assert "screening" in loaded
    assert not loaded & {"torch", "torchvision", "vllm", "transformers", "service", "trainer"}


def test_the_service_without_its_engine_loads_neither_vllm_nor_the_trainer(repository):
    names = [name for name in modules(repository, "service") if name != "service.engines.vllm_engine"]
    loaded = loaded_after(repository, *names)
    assert "service" in loaded
    assert not loaded & {"torch", "vllm", "trainer"}


def test_the_sdk_loads_nothing_else_of_ours(repository):
    loaded = loaded_after(repository, *modules(repository, "screening_client"))
    assert "screening_client" in loaded
    assert not loaded & ({"torch", "vllm"} | OURS - {"screening_client"})


@pytest.mark.slow
@pytest.mark.exhaustive  # follows from test_a_package_imports_only_what_it_may, which reads every import of the trainer
def test_the_trainer_loads_nothing_of_the_service(repository):
    loaded = loaded_after(repository, *modules(repository, "trainer"))
    assert "trainer" in loaded
    assert "service" not in loaded


def test_reading_imports_sees_every_way_to_import(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        "import a.b\nfrom c.d import e\nfrom . import f\n"
        "def g():\n    import h as i\n    import importlib\n    importlib.import_module('j.k')\n    __import__('l')\n"
    )
    assert imported(source) == {"a", "c", "h", "importlib", "j", "l"}
