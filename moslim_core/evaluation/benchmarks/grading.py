"""What a language model is asked about an answer: versioned wording from package files, and the form of what it says.

As in judging/annotator.py: what is judged stands between tags and can't leave them, and another wording is another version, under which
everything is asked anew. The wording is ours, not that of the benchmarks' own prompts: grades compare with ours only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from moslim_core.judging.annotator import escape
from moslim_core.judging.endpoint import Endpoint, Question

# Each names two files of the wording, .system.txt and .user.txt.
TURN, HONESTY, HARMLESSNESS, FACTS, TRUTH = "turn-1", "honesty-1", "harmlessness-1", "facts-1", "truth-1"

HIGHEST = 10


def form(**properties: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of an object with these properties and nothing else."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# The reason comes first: a grade that follows it is the better for it.
GRADE = form(reason={"type": "string"}, grade={"type": "integer", "minimum": 0, "maximum": HIGHEST})


def question(version: str, schema: dict[str, Any], **parts: str) -> Question:
    """The request in the wording `version`, whose places `parts` fill: text by `tagged`."""
    messages = [
        {"role": "system", "content": _wording(version, "system").substitute()},
        {"role": "user", "content": _wording(version, "user").substitute(parts)},
    ]
    return Question(messages, schema, version)


def tagged(name: str, text: str) -> str:
    """`text` between tags that nothing in it can open or close."""
    return f"<{name}>\n{escape(text)}\n</{name}>"


def grades(endpoint: Endpoint, questions: Sequence[Question]) -> list[float | None]:
    """0 to 10 for each question of schema `GRADE`, None where there is no answer that can be read."""
    return [None if answer is None else float(answer["grade"]) for answer in endpoint.ask(questions)]


@cache
def _wording(version: str, part: str) -> Template:
    path = files("moslim_core").joinpath("evaluation", "judge_prompts", f"{version}.{part}.txt")
    return Template(path.read_text(encoding="utf-8").strip())
