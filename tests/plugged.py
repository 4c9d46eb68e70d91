"""Plug-ins as pip would install them, in folders of a test's: known inside a `with`, and to the processes that are started there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from moslim_core import plugins
from moslim_core.registry import KINDS

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "extending.md"


def examples() -> dict[str, str]:
    """{file: text} of the package that docs/extending.md shows."""
    blocks = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return dict(blocks)


def written(folder: Path, files: Mapping[str, str], name: str, version: str, module: str) -> Path:
    """`folder` with a distribution as it lies in site-packages."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    said = {
        f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info.name}/entry_points.txt": f"[{plugins.GROUP}]\nmine = {module}\n",
    }
    for place, text in {**files, **said}.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf-8")
    return folder


@contextmanager
def plugged(folder: Path) -> Iterator[None]:
    """With what lies in `folder` installed; afterwards nothing of it is left in this process."""
    before, things = set(sys.modules), {kind: dict(registry._things) for kind, registry in KINDS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(ROOT))))
        plugins.installed.cache_clear()
        try:
            yield
        finally:
            for kind, registry in KINDS.items():
                own = {name: of for name, of in registry._things.items() if name in registry.own}
                registry._things = {**things[kind], **own}
            for name in set(sys.modules) - before:
                if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                    del sys.modules[name]
    plugins.installed.cache_clear()
    plugins._digest.cache_clear()
    plugins._begun.clear()
