"""What MkDocs needs beside the pages of this folder: the texts of the root, and Mermaid, which draws the diagrams in the reader's browser.

Mermaid comes with NiceGUI. MkDocs' theme would fetch it from a public server when a page is read.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import ConfigurationError
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
DIAGRAMS = """\
import { mermaid } from "./mermaid/index.js";
const dark = document.body.dataset.mdColorScheme === "slate";
mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral", fontFamily: "inherit" });
await mermaid.run({ querySelector: ".diagram" });
"""
# Tables and commands are wider than the theme's column.
WIDER = ".md-grid { max-width: 78rem; }\n.md-typeset td:first-child code { word-break: normal; white-space: nowrap; }\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what is not there yet."""
    config.nav = _there(config.nav)
    return config


def _there(entries: list[Any]) -> list[Any]:
    kept = []
    for entry in entries:
        ((title, to),) = entry.items()
        if isinstance(to, list):
            kept.append({title: _there(to)})
        elif to in ROOT_PAGES or (DOCS / to).is_file():
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name in ROOT_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        # Beside the other pages they lead to these without the folder.
        text = text.replace("](docs/)", "](README.md)").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for part in sorted(_mermaid().glob("*.js")):
        files.append(File.generated(config, f"assets/mermaid/{part.name}", abs_src_path=str(part)))
    files.append(File.generated(config, "assets/diagrams.mjs", content=DIAGRAMS))
    files.append(File.generated(config, "assets/wider.css", content=WIDER))
    return files


def _mermaid() -> Path:
    found = find_spec("nicegui")
    folder = Path(str(found.origin)).parent / "elements" / "mermaid" / "dist" if found else Path()
    if not (folder / "index.js").is_file():
        raise ConfigurationError("NiceGUI's copy of Mermaid is not there. Install the extra: pip install -c constraints.txt -e '.[docs]'")
    return folder
