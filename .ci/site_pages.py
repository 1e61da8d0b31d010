"""Hook of MkDocs: adds the Markdown pages outside docs/ to the site, and makes links between all pages work there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "clients/python/README.md": "python-client.md",
    "k8s/README.md": "kubernetes.md",
    "models/tiny/README.md": "model-card.md",
}
"""Path in the repository → page of the site."""
REPOSITORY = {page: path for path, page in OUTSIDE.items()}

LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_others: object) -> str:
    """Point links at pages of the site; a link to any other file of the repository becomes its text."""
    here = page.file.src_uri
    folder = posixpath.dirname(REPOSITORY.get(here, f"docs/{here}"))

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        site = OUTSIDE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(site) is None:
            return text[1:-1]
        return f"{text}({posixpath.relpath(site, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(link, markdown)
