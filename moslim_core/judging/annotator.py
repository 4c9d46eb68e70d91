"""A language model as annotator: one request per answer, for the levels of all the preferences that are wanted of it.

What is rated stands between tags, with every character escaped that could end or imitate them: text in an answer can't give orders. (ours)
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from moslim_core.data.rows import Row
from moslim_core.judging.endpoint import Endpoint, Question
from moslim_core.preferences import Preference, PreferenceSchema

# Names the files of the wording; another wording is another version, under which every question is sent anew.
VERSION = "levels-1"

# Look-alikes of angle brackets, which a model may take for the real ones.
_BRACKETS = str.maketrans({"\uff1c": "<", "\ufe64": "<", "\uff1e": ">", "\ufe65": ">"})


class JudgeAnnotator:
    """Levels by a language model behind `endpoint`."""

    name = "judge"

    def __init__(self, schema: PreferenceSchema, endpoint: Endpoint) -> None:
        self.schema, self.endpoint = schema, endpoint
        self.preferences = frozenset(schema.names)

    def verdicts(self, rows: Sequence[Row], wanted: Sequence[Sequence[str]]) -> list[dict[str, int | None]]:
        """Per row a level for each wanted preference, None where the model can't tell; empty where its answer can't be read."""
        answers = self.endpoint.ask([question(row, [self.schema[n] for n in names]) for row, names in zip(rows, wanted, strict=True)])
        return [{name: None if level is None else int(level) for name, level in (answer or {}).items()} for answer in answers]


def question(row: Row, preferences: Sequence[Preference]) -> Question:
    """The request for the levels of `row`'s answer on `preferences`, at least one."""
    content = _wording("user").substitute(
        scales="\n\n".join(_scale(p) for p in preferences),
        conversation="\n".join(f'<turn role="{m["role"]}">\n{escape(m["content"])}\n</turn>' for m in row.prompt),
        answer=escape(row.response),
        keys=", ".join(f'"{p.name}"' for p in preferences),
    )
    messages = [{"role": "system", "content": _wording("system").substitute()}, {"role": "user", "content": content}]
    return Question(messages, answer_schema(preferences), VERSION)


def answer_schema(preferences: Sequence[Preference]) -> dict[str, Any]:
    """JSON schema of an object with a level 1..K, or null, per preference and nothing else."""
    return {
        "type": "object",
        "properties": {p.name: {"type": ["integer", "null"], "minimum": 1, "maximum": p.k} for p in preferences},
        "required": [p.name for p in preferences],
        "additionalProperties": False,
    }


def escape(text: str) -> str:
    """`text` without a character that could open or close a tag; readable back, as &lt; &gt; &amp;."""
    return html.escape(text.translate(_BRACKETS), quote=False)


def _scale(preference: Preference) -> str:
    about = f": {preference.description}" if preference.description else ""
    levels = "\n".join(f"  {level} = {label}" for level, label in enumerate(preference.levels, start=1))
    return f"{preference.name}{about}\n{levels}"


@cache
def _wording(part: str) -> Template:
    return Template(files("moslim_core").joinpath("judging", "prompts", f"{VERSION}.{part}.txt").read_text(encoding="utf-8").strip())
