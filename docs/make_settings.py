"""Write docs/settings.md from the settings' own descriptions: python docs/make_settings.py."""

from __future__ import annotations

from pathlib import Path

from moslim_core.settings import described

PAGE = Path(__file__).with_name("settings.md")


def cell(text: str) -> str:
    """Lines in one cell of a table, whose bars are none of the table's."""
    return text.replace("|", "\\|").replace("\n", "<br>")


def page() -> str:
    lines = ["# Settings", "", "Keys of a profile and of `--set`. Made by `docs/make_settings.py`."]
    for about, keys in described().items():
        lines += ["", f"## {about.removesuffix('.')}", "", "| key | default | what |", "|---|---|---|"]
        lines += [f"| `{key}` | `{default}` | {cell(what)} |" for key, default, what in keys]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
