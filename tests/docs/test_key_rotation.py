"""The commands that the pages give for a rotation of keys remove the old key of one caller, and no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD, OTHER, ADMIN = "1" * 64, "2" * 64, "3" * 64


@pytest.mark.parametrize("page", ["docs/settings.md", "k8s/README.md"])
@pytest.mark.parametrize("name", ["shop", "new-shop"])
def test_a_rotation_leaves_the_other_keys(page: str, name: str, tmp_path: Path) -> None:
    """A caller without an old key loses nothing either: `grep -v ""` would remove every line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = (found for found in blocks if "tail -n" in found)
    commands = block[block.rindex("python -m service key") :].replace("shop", name)
    before = [f"shop screen {OLD}", "# the second shop", f"shop-2 screen {OTHER}", f"operator admin {ADMIN}"]
    (tmp_path / "keys").write_text("\n".join(before) + "\n")
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        ["bash", "-euc", f"replace() {{ :; }}\n{commands}"], cwd=tmp_path, env=environment, check=True, timeout=300
    )
    *others, added = (tmp_path / "keys").read_text().splitlines()
    assert others == before[1:] if name == "shop" else others == before
    assert added.startswith(f"{name} screen ") and added.split()[2] not in (OLD, OTHER, ADMIN)
