"""What modules of this library register, read from their text: a list for settings, help and forms costs no import. (ours)"""

from __future__ import annotations

import ast
from contextlib import suppress
from importlib.resources import files
from typing import NamedTuple

# In Python 3.11 a thread that parses may find the count of another one that does (python/cpython#106905): then it parses again.
PARSE_TRIES = 20
LIBRARY = __name__.partition(".")[0]


class Declared(NamedTuple):
    """Where a thing is, and the first line of its docstring, else of its module's."""

    module: str
    about: str


def declared(source: str, kind: str) -> dict[str, str]:
    """{name: what it is} of what stands under `@kind(name)` in the text of a module."""
    if f"@{kind}(" not in source:
        return {}
    tree = _parsed(source)
    return {
        ast.literal_eval(call.args[0]): first_line(ast.get_docstring(node) or ast.get_docstring(tree))
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == kind
    }


def _parsed(source: str) -> ast.Module:
    for _ in range(PARSE_TRIES - 1):
        with suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def first_line(docstring: str | None) -> str:
    """What lists say of a thing: the first line of its docstring, without its full stop."""
    return (docstring or "").strip().partition("\n")[0].rstrip(".")


def declared_in(home: str, kind: str) -> dict[str, Declared]:
    """All of a kind in a module of the library, or in the modules of a package, in their order."""
    *folders, last = home.split(".")[1:]
    place = files(LIBRARY).joinpath(*folders, last)
    modules = {home: files(LIBRARY).joinpath(*folders, f"{last}.py")}
    if place.is_dir():
        sources = sorted((f for f in place.iterdir() if f.name.endswith(".py")), key=lambda f: f.name)
        modules = {f"{home}.{f.name.removesuffix('.py')}": f for f in sources}
    return {
        name: Declared(module, about)
        for module, file in modules.items()
        for name, about in declared(file.read_text(encoding="utf-8"), kind).items()
    }
