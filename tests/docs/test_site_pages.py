"""The hook of `make docs` keeps links working where a page has another place on the site than in the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"index.md", "sdk.md", "python-client.md", "kubernetes.md", "training/tutorial.md", "training/reference.md"}


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / ".ci" / "site_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "written", "on_the_site"),
    [
        ("index.md", "[SDK](docs/sdk.md#errors)", "[SDK](sdk.md#errors)"),
        ("python-client.md", "[SDK](../../docs/sdk.md)", "[SDK](sdk.md)"),
        ("sdk.md", "[pods](../k8s/README.md#retraining)", "[pods](kubernetes.md#retraining)"),
        ("kubernetes.md", "[SDK](../docs/sdk.md)", "[SDK](sdk.md)"),
        ("sdk.md", "[README](../clients/python/README.md)", "[README](python-client.md)"),
        (
            "training/tutorial.md",
            "[up](../../README.md) [beside](reference.md)",
            "[up](../index.md) [beside](reference.md)",
        ),
        ("index.md", "[LICENSE](LICENSE)", "LICENSE"),
        (
            "index.md",
            "[there](https://example.com/a) [here](#status)",
            "[there](https://example.com/a) [here](#status)",
        ),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(hook: ModuleType, page: str, written: str, on_the_site: str) -> None:
    files = SimpleNamespace(get_file_from_path=lambda name: name if name in PAGES else None)
    shown = hook.on_page_markdown(
        written, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)), config=None, files=files
    )
    assert shown == on_the_site
