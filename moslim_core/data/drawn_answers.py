"""Answers to rate, drawn from a chat model: each prompt is stated with wishes that name the levels in plain words, spread evenly. (ours)

The wish is not in the row: what is rated is an answer to the plain prompt. Batches of prompts are drawn, labelled and stored one after the
other, so that what is killed loses one at most. Whole sentences and loops are told as for the starter set (starter/selection.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from moslim_core.data.annotation import Annotation
from moslim_core.data.rows import Row, plain_text, read_json_lines
from moslim_core.data.starter.selection import loops, whole_sentences
from moslim_core.errors import UserError
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.preferences.prompting import BREAK, LEAD

BATCH_PROMPTS = 8


class Drawing(Protocol):
    """Asks many conversations at once: (text, whether it was ended, not cut) of each, '' where nothing came."""

    def __call__(self, conversations: Sequence[list[Message]], seed: int) -> list[tuple[str, bool]]: ...


def wishes(schema: PreferenceSchema, prompts: int, answers: int, seed: int) -> list[list[str]]:
    """A wish for each answer to each prompt: one level of one preference, all of them equally often over the prompts."""
    cells = [(p.name, level) for p in schema.preferences for level in p.requestable]
    rng = random.Random(f"{seed}/wishes")
    order = itertools.chain.from_iterable(rng.sample(cells, len(cells)) for _ in itertools.count())
    return [[schema[name].label(level) for name, level in itertools.islice(order, answers)] for _ in range(prompts)]


def wished(prompt: Sequence[Message], wish: str) -> list[Message]:
    """The prompt with a wish in plain words at its end."""
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']}{BREAK}{LEAD}{wish}."}]


def draw(
    prompts: Sequence[list[Message]],
    schema: PreferenceSchema,
    answers: int,
    drawing: Drawing,
    annotation: Annotation,
    output: Path,
    seed: int,
    settings: Any,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Row], Counter[str]]:
    """Rows with their levels, written to `output` once all are there; and how many answers were left out, by reason.

    `settings`: JSON data of what the answers depend on. What stands in `output`.partial of the same is not drawn again. Raises UserError
    where that is of others.
    """
    partial = output.with_name(output.name + ".partial")
    inputs = {"prompts": [plain_text(p) for p in prompts], "schema": schema.model_dump(mode="json"), "answers": answers, "seed": seed}
    digest = hashlib.sha256(json.dumps([inputs, settings], sort_keys=True).encode()).hexdigest()
    batches = _begun(partial, digest)
    wanted = wishes(schema, len(prompts), answers, seed)
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    for number, start in enumerate(range(0, len(prompts), BATCH_PROMPTS)):
        chosen = range(start, min(start + BATCH_PROMPTS, len(prompts)))
        if number == len(batches):
            on_progress(start, len(prompts))
            pairs = [(p, wish) for p in chosen for wish in wanted[p]]
            batch_seed = random.Random(f"{seed}/{number}").getrandbits(32)
            drawn = drawing([wished(prompts[p], wish) for p, wish in pairs], batch_seed)
            batches.append(_batch([prompts[p] for p, _ in pairs], drawn, annotation))
            with partial.open("a", encoding="utf-8") as file:
                file.write(json.dumps(batches[-1], ensure_ascii=False) + "\n")
        rows += [Row(**row) for row in batches[number]["rows"]]
        dropped.update(batches[number]["dropped"])
    on_progress(len(prompts), len(prompts))
    finished = output.with_name(output.name + ".whole")
    with finished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(_plain(row, schema), ensure_ascii=False) + "\n" for row in rows)
    finished.replace(output)
    partial.unlink()
    return rows, dropped


def _begun(partial: Path, digest: str) -> list[dict[str, Any]]:
    """The batches that an earlier try drew; a line that a kill cut is taken out."""
    if not partial.is_file():
        partial.write_text(json.dumps({"digest": digest}) + "\n", encoding="utf-8")
        return []
    text = partial.read_text(encoding="utf-8")
    partial.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    lines = [value for _, value in read_json_lines(partial)]
    if not lines or lines[0].get("digest") != digest:
        raise UserError(
            f"{partial} is of other prompts or settings.\nGive those to go on with it, or remove the file, or give another --output."
        )
    return lines[1:]


def _batch(prompts: Sequence[list[Message]], drawn: Sequence[tuple[str, bool]], annotation: Annotation) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    rows: dict[tuple[str, str], Row] = {}
    for prompt, (said, ended) in zip(prompts, drawn, strict=True):
        text = whole_sentences(said, ended)
        reason = "no answer" if not said.strip() else "breaks off" if not text else "loops" if loops(text) else ""
        if not reason and (plain_text(prompt), text) in rows:
            reason = "said before"
        if reason:
            dropped[reason] += 1
        else:
            rows[plain_text(prompt), text] = Row(prompt, text, {}, "sampled")
    return {"rows": [row.to_json() for row in annotation.fill(rows.values())], "dropped": dropped}


def _plain(row: Row, schema: PreferenceSchema) -> dict[str, Any]:
    """A row as the label stage reads it: every preference has a column, null where nobody could tell."""
    prompt: Any = row.prompt[0]["content"] if len(row.prompt) == 1 else row.prompt
    return {"prompt": prompt, "response": row.response, "source": row.source, **{name: row.labels.get(name) for name in schema.names}}


def spread(rows: Sequence[Row], schema: PreferenceSchema) -> dict[str, list[int]]:
    """Rows of each level, by preference."""
    return {p.name: [sum(row.labels.get(p.name) == level for row in rows) for level in range(1, p.k + 1)] for p in schema.preferences}
