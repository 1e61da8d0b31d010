"""The links of every Markdown page have targets, and the files that a page names exist. Nothing is fetched."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "clients", "k8s", "models", "loadtest", "service", "trainer", "screening")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

PRESENT = [name for name in NAMES if not name.startswith(("CHANGELOG.md", "docs/experiments/"))]
"""Without the pages about earlier versions, which may name files that no longer exist."""

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^ {0,3}#{1,6} +(.+?) *#* *$", re.MULTILINE)
_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
_FILE = re.compile(r"(?:screening|service|trainer|loadtest|tests|clients|docs|k8s|models|\.ci)/[\w./-]*\w/?")
_DOCS_PAGE = re.compile(r"\bdocs/[\w./-]+\.md\b")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures, without those that only show how a link is written."""
    return _LINK.findall(_CODE.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site make of a page's headings; a repeated heading gets a number."""
    seen: Counter[str] = Counter()
    found = set(_ANCHOR.findall(page.read_text(encoding="utf-8")))
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", "")).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_to_a_file_and_an_anchor(page: Path) -> None:
    broken = []
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / unquote(path)).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PRESENT)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = {name for _, code in _CODE.findall(prose(ROOT / page)) if _FILE.fullmatch(name := code.strip())}
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_every_page_that_the_code_names_exists() -> None:
    folders = ("screening", "service", "trainer", "loadtest", "clients", "tests", "k8s")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yaml")]
    missing = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"]
        for name in _DOCS_PAGE.findall(file.read_text(encoding="utf-8"))
        if not (ROOT / name).is_file()
    }
    assert not missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A base model: `import`\n## What's up?\n## Again\n## Again\n```\n# no heading\n```\n")
    assert anchors(page) == {"a-base-model-import", "whats-up", "again", "again-1"}


def test_links_in_code_blocks_are_ignored(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](b.md) `[c](d.md)` ![e](f.png)\n```\n[g](h.md)\n```\n[i [j]](k.md#l)\n")
    assert links(page) == ["b.md", "f.png", "k.md#l"]


def test_the_curl_of_the_readme_names_files_that_exist() -> None:
    (block,) = re.findall(
        r"```bash\ncd (\S+)\n(curl .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    folder, command = block
    pictures = re.findall(r"@(\S+)", command)
    assert len(pictures) == 5
    assert all((ROOT / folder / picture).is_file() for picture in pictures)


def test_the_table_of_experiments_lists_each_page_once_in_the_order_of_the_dates() -> None:
    index = ROOT / "docs" / "experiments" / "README.md"
    listed = re.findall(
        r"\]\((\d{4}-[\w-]+\.md)\) \|$", index.read_text().partition("## All experiments")[2], re.MULTILINE
    )
    assert sorted(listed) == sorted(page.name for page in index.parent.glob("20*.md"))
    assert [name[:10] for name in listed] == sorted(name[:10] for name in listed)
