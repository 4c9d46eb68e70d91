"""Imports go one way: moslim_core <- tasks <- flows <- deployments; the core knows neither orchestrator nor tracker."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("moslim_core", "tasks", "flows", "deployments")
FORBIDDEN = {layer: set(LAYERS[number + 1 :]) | {"tests"} for number, layer in enumerate(LAYERS)}
FORBIDDEN["moslim_core"] |= {"prefect", "mlflow"}


def imported(source: str) -> set[str]:
    """Top-level packages imported anywhere in a module, inside functions and under TYPE_CHECKING too, or by a name in text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value).split(".")[0])
    return found


def test_every_way_of_importing_is_seen() -> None:
    source = "import a.b\nfrom c.d import e\ndef f():\n    import g\n    importlib.import_module('h.i')\n"
    assert imported(source) == {"a", "c", "g", "h"}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    broken = [f"{f.relative_to(ROOT)}: {', '.join(sorted(bad))}" for f in files if (bad := imported(f.read_text()) & FORBIDDEN[layer])]
    assert not broken
