"""python docs/make_notebooks.py NAME...: run notebooks from top to bottom and keep what they print, without this machine's folders."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("notebooks")


def run(name: str) -> dict[str, Any]:
    """The notebook with each code cell's output: what it printed, and its last expression's value as Jupyter shows it."""
    notebook: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, start=1):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"{name}.ipynb", "exec"), names)
            value = eval(compile(ast.Expression(last.value), f"{name}.ipynb", "eval"), names) if isinstance(last, ast.Expr) else None
        cell["execution_count"], cell["outputs"] = number, []
        if printed.getvalue().strip():
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
        if value is not None:
            data = {"text/plain": lines(repr(value))}
            if hasattr(value, "_repr_html_"):
                data["text/html"] = lines(value._repr_html_())
            cell["outputs"].append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return notebook


def lines(text: str) -> list[str]:
    return text.replace(f"{Path.cwd()}/", "").splitlines(keepends=True)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        (FOLDER / f"{each}.ipynb").write_text(json.dumps(run(each), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
