"""A stage's output is reused by its version: when the code that makes it changes, someone has to say whether results change.

If they do, raise the stage's version. If they don't, or after that: python tests/test_stage_versions.py
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
from pathlib import Path

import pytest

from moslim_core.baselines import METHODS
from tasks import compare_systems

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_name("stage_versions.json")
STAGES = {
    "label": ("tasks.label", "STAGE"),
    "train_reward": ("tasks.train_reward", "REWARD_STAGE"),
    "train_judge": ("tasks.train_reward", "JUDGE_STAGE"),
    "train_policy": ("tasks.train_policy", "STAGE"),
    "evaluate": ("tasks.evaluate", "STAGE"),
    "report": ("tasks.report", "STAGE"),
}
# Each compared system is a stage; its method's module is imported by name, so that it has to be named here too.
COMPARED = {f"compared_{name}": ("tasks.compare_systems", module) for name, module in METHODS.items()}


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def imports(tree: ast.AST) -> set[str]:
    """Modules of the library that a module imports, inside functions too. Other stages' plumbing makes no results."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "moslim_core" and file_of(name)}


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def closure_digest(*modules: str) -> str:
    """Of the code, without comments and docstrings, of a stage's modules and of all that they import from the library."""
    digests: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if name in digests or path is None:
            continue
        tree = without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
        digests[name] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        waiting += imports(tree)
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def current() -> dict[str, dict[str, str | int]]:
    return {
        stage: {"version": getattr(importlib.import_module(module), name).version, "code": closure_digest(module)}
        for stage, (module, name) in STAGES.items()
    } | {
        stage: {"version": compare_systems.STAGES[stage.removeprefix("compared_")].version, "code": closure_digest(*modules)}
        for stage, modules in COMPARED.items()
    }


@pytest.mark.parametrize("stage", [*STAGES, *COMPARED])
def test_changed_code_has_a_new_version_or_a_word_that_results_are_the_same(stage: str) -> None:
    assert current()[stage] == json.loads(RECORD.read_text())[stage], (
        f"the code behind stage {stage} changed: raise its version in {(STAGES | COMPARED)[stage][0]} if results change, "
        "then run python tests/test_stage_versions.py"
    )


def test_a_change_deep_in_the_library_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moslim_core").mkdir()
    for name, text in {"a": "from moslim_core import b", "b": "import moslim_core.c", "c": "X = 1  # one"}.items():
        (tmp_path / "moslim_core" / f"{name}.py").write_text(text)
    (tmp_path / "moslim_core" / "__init__.py").write_text("")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    before = closure_digest("moslim_core.a")
    (tmp_path / "moslim_core" / "c.py").write_text('"""Said better."""\n\nX = 1')
    assert closure_digest("moslim_core.a") == before
    (tmp_path / "moslim_core" / "c.py").write_text("X = 2")
    assert closure_digest("moslim_core.a") != before


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
