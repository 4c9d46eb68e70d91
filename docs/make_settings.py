"""Write docs/settings.md from the settings' own descriptions: python docs/make_settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moslim_core.settings import Settings


def table(model: type[BaseModel], prefix: str) -> list[str]:
    rows, inner = [], []
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and "root" not in kind.model_fields:
            inner += ["", f"## {prefix}{name}", "", (kind.__doc__ or "").strip(), "", *table(kind, f"{prefix}{name}.")]
            continue
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        rows.append(f"| `{prefix}{name}` | {default} | {field.description or ''} |")
    head = ["| key | default | what |", "|---|---|---|"] if rows else []
    return [*head, *rows, *inner]


if __name__ == "__main__":
    lines = ["# Settings", "", "Keys of a profile and of `--set`. Made by `docs/make_settings.py`.", "", *table(Settings, "")]
    Path(__file__).with_name("settings.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
