"""What modules register, read from their text."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from moslim_core import registered_names

SOURCE = '@utility("double")\ndef double():\n    """Twice as much."""\n'


def test_names_are_read_again_where_another_thread_was_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python 3.11 then says, whatever the source."""
    parse, calls = ast.parse, []

    def disturbed(source: str) -> Any:
        calls.append(source)
        if len(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=60, after=77)")
        return parse(source)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert registered_names.declared(SOURCE, "utility") == {"double": "Twice as much"} and len(calls) == 3
    with pytest.raises(SyntaxError):
        registered_names.declared("@utility(", "utility")
