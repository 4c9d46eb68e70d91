"""The data card: what the rows are, where they are from, how they were made levels and what was left out; as JSON, Markdown and HTML.

All three are made from one dict, so whoever adds to it writes all three with `write_card`. The Markdown goes out with an exported policy:
it alone has no example rows, which are somebody's text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from moslim_core.data.rows import Row, plain_text
from moslim_core.data.splits import JUDGE, TEST, TRAIN, VALIDATION
from moslim_core.preferences import PreferenceSchema

# Its own template, and the report's style sheet. Importing the report's code would put it into this stage's fingerprint.
TEMPLATES = (Path(__file__).parent, Path(__file__).parents[1] / "report")

# Sources that a card tells apart: where every row names one of its own, an address, say, the rest are counted together.
MOST_SOURCES, OTHERS = 50, "(other sources)"
QUANTILES = (5, 25, 50, 75, 95)
# Rows that are shown, and how many characters of a question and of an answer.
EXAMPLES, EXAMPLE_CHARACTERS = 5, 300


class Tally:
    """Counts rows as they go by; it holds counts, and a few rows as examples."""

    def __init__(self, schema: PreferenceSchema) -> None:
        self.schema = schema
        self.sources: set[str] = set()
        self.rows: Counter[tuple[str, str]] = Counter()  # (split, source)
        self.levels: Counter[tuple[str, str, str, int]] = Counter()  # (preference, split, source, level)
        self.between: Counter[str] = Counter()  # preference
        self.choices: Counter[tuple[str, str]] = Counter()  # (preference, split)
        self.words: dict[str, Counter[int]] = {"prompt": Counter(), "answer": Counter()}
        self._kept: dict[str, Row] = {}  # digest of the content -> row

    def add(self, split: str, row: Row) -> None:
        """Count a row in."""
        source = row.source if row.source in self.sources or len(self.sources) < MOST_SOURCES else OTHERS
        self.sources.add(source)
        self.rows[split, source] += 1
        for name, level in row.labels.items():
            self.levels[name, split, source, level] += 1
        self.between.update(list(row.between or ()))
        self.choices.update((name, split) for name in row.worse or ())
        self.words["prompt"][len(plain_text(row.prompt).split())] += 1
        self.words["answer"][len(row.response.split())] += 1
        # The smallest digests are a random choice that depends on the rows alone, not on their order.
        self._kept[hashlib.sha256(json.dumps(row.to_json(), sort_keys=True).encode()).hexdigest()] = row
        if len(self._kept) > EXAMPLES:
            del self._kept[max(self._kept)]

    def labelled(self, preference: str, split: str | None = None) -> int:
        """Rows with a label of a preference, in one split or in all."""
        return sum(n for (name, at, _, _), n in self.levels.items() if name == preference and split in (None, at))

    def examples(self) -> list[dict[str, Any]]:
        """A few rows, as {question, answer, levels {preference: words}}; long texts are cut, with an ellipsis."""
        return [
            {"question": _cut(plain_text(row.prompt)), "answer": _cut(row.response), "levels": _levels(row, self.schema)}
            for _, row in sorted(self._kept.items())
        ]

    def card(self, *, dropped: Mapping[str, int], **more: Any) -> dict[str, Any]:
        """The data card, with what only the caller knows: `prompts`, `prompt_groups`, `licences`, `binning`, `bad_rows`.

        Where annotators filled in labels also `filled`, a list of {preference, annotator, asked, filled, undecided, unparsable}, and
        `agreement`, a list of {preference, first, second, n, exact, kappa or null}.
        """
        splits = [split for split in (TRAIN, JUDGE, VALIDATION, TEST) if self._count(split=split)]
        sources = list(dict.fromkeys(source for _, source in self.rows))
        return {
            "rows": {split: self._count(split=split) for split in splits},
            "sources": {source: self._count(source=source) for source in sources},
            "rows_by_source": {source: {split: self.rows[split, source] for split in splits} for source in sources},
            "labels": {name: self._histogram(name) for name in self.schema.names},
            "labels_by_source": {name: {source: self._histogram(name, source) for source in sources} for name in self.schema.names},
            "between": {name: self.between[name] for name in self.schema.names if self.between[name]},
            "choices": {
                name: {split: self.choices[name, split] for split in splits}
                for name in self.schema.names
                if any(of == name for of, _ in self.choices)
            },
            "dropped": {reason: count for reason, count in dropped.items() if count},
            "prompt_words": _percentiles(self.words["prompt"]),
            "answer_words": _percentiles(self.words["answer"]),
            "examples": self.examples(),
            "bad_rows": [],
            "filled": [],
            "agreement": [],
            **more,
        }

    def _count(self, split: str | None = None, source: str | None = None) -> int:
        return sum(n for (at, of), n in self.rows.items() if split in (None, at) and source in (None, of))

    def _histogram(self, preference: str, source: str | None = None) -> dict[str, Any]:
        levels: Counter[int] = Counter()
        for (name, _, of, level), n in self.levels.items():
            if name == preference and source in (None, of):
                levels[level] += n
        shown = {str(level): levels[level] for level in range(1, self.schema[preference].k + 1)}
        return {"labelled": levels.total(), "levels": shown}


def _cut(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:EXAMPLE_CHARACTERS].rstrip()}…"


def _levels(row: Row, schema: PreferenceSchema) -> dict[str, str]:
    words = dict.fromkeys(row.worse or (), "chosen over another answer")
    for name, level in row.levels().items():
        label = schema[name].label(row.labels[name])
        words[name] = label if level == row.labels[name] else f"{level:g}, near {label}"
    return {name: words[name] for name in schema.names if name in words}


def _percentiles(counts: Counter[int]) -> dict[str, float]:
    values = np.array(sorted(counts))
    percentiles = np.percentile(values, QUANTILES, weights=np.array([counts[v] for v in values]), method="inverted_cdf")
    return {str(q): float(value) for q, value in zip(QUANTILES, percentiles, strict=True)}


class Share(NamedTuple):
    """A count, shown with its share of a whole."""

    part: int
    whole: int

    @property
    def percent(self) -> float:
        return 100 * self.part / self.whole if self.whole else 0.0


class Table(NamedTuple):
    """A table of the card. Cells are text, numbers or shares; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[Any]]
    note: str = ""


def write_card(folder: Path, card: dict[str, Any], schema: PreferenceSchema) -> None:
    """Write data_card.json, data_card.md and data_card.html into `folder`."""
    (folder / "data_card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "data_card.md").write_text(markdown(card, schema), encoding="utf-8")
    (folder / "data_card.html").write_text(html(card, schema), encoding="utf-8")


def markdown(card: dict[str, Any], schema: PreferenceSchema) -> str:
    """The card as Markdown."""
    lines = ["# Data card", ""]
    for table in tables(card, schema):
        lines += [f"## {table.title}", "", _line(table.head), "|" + "---|" * len(table.head), *map(_line, table.rows), ""]
        lines += [table.note, ""] if table.note else []
    return "\n".join(lines)


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(shown(cell).replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def shown(cell: Any) -> str:
    """A cell as text."""
    if isinstance(cell, Share):
        return f"{cell.part:,} ({cell.percent:.0f} %)"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.6g}" if isinstance(cell, float) else str(cell)


def html(card: dict[str, Any], schema: PreferenceSchema) -> str:
    """The card as one page without external resources, in the report's look."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=shown)
    environment.tests.update(share=lambda cell: isinstance(cell, Share))
    return environment.get_template("card.html.j2").render(
        tables=tables(card, schema), rows=sum(card["rows"].values()), examples=card["examples"]
    )


def tables(card: dict[str, Any], schema: PreferenceSchema) -> list[Table]:
    """What the card shows, in order; of what is empty, nothing."""
    splits, total = list(card["rows"]), sum(card["rows"].values())
    rows = [[source, *(of[split] for split in splits), sum(of.values())] for source, of in card["rows_by_source"].items()]
    made = [
        Table("Rows by source and split", ["source", *splits, "all"], [*rows, ["all", *card["rows"].values(), total]]),
        Table(
            "Licences",
            ["data.source", "licence", "from", "known defects, and what was done about them"],
            [
                [name, of["licence"], f"{of['hub']}, {of['revision']}" if "hub" in of else "", of.get("defects", "")]
                for name, of in card["licences"].items()
            ],
        ),
    ]
    for preference in schema.preferences:
        by_source = [(source, card["sources"][source], of) for source, of in card["labels_by_source"][preference.name].items()]
        rows = [
            [source, Share(of["labelled"], count), *(Share(n, of["labelled"]) for n in of["levels"].values())]
            for source, count, of in [*by_source, ("all", total, card["labels"][preference.name])]
            if of["labelled"] or source == "all"
        ]
        without = [source for source, _, of in by_source if not of["labelled"]]
        head = [f"{level} · {label}" for level, label in enumerate(preference.levels, start=1)]
        note = f"Without a label: {', '.join(without)}. " if without else ""
        if between := card["between"].get(preference.name):
            note += f"{between:,} lie between two levels, and count as the nearer one here. "
        if choices := card["choices"].get(preference.name):
            note += f"Choices between two answers: {', '.join(f'{split} {n:,}' for split, n in choices.items())}. "
        made.append(Table(f"Labels: {preference.name}", ["source", "labelled", *head], rows, note.strip()))
    made += [
        Table(
            "Binning",
            ["preference", "data.source", "column", "how its ratings became levels"],
            [[name, source, b["column"], _way(b)] for name, of in card["binning"].items() for source, b in of.items()],
        ),
        Table(
            "Prompts",
            ["", "prompts"],
            [[name, n] for name, n in {**card["prompt_groups"], **card["prompts"]}.items() if name != "similarity"],
            "Equal prompts, and those whose sets of word triples have an estimated Jaccard similarity of at least "
            f"{card['prompt_groups']['similarity']}, form a group, which is in one split. The last two rows are the policy's prompts.",
        ),
        Table("Left out", ["reason", "rows or prompts"], [list(item) for item in card["dropped"].items()]),
        _records("Bad rows", card["bad_rows"], ["reason", "rows", "first"]),
        Table(
            "Words",
            ["", *(f"{q} %" for q in card["answer_words"])],
            [[what, *card[f"{what}_words"].values()] for what in ("prompt", "answer")],
            "Percentiles over rows.",
        ),
        _records("Labels filled in", card["filled"], ["preference", "annotator", "asked", "filled", "undecided", "unparsable"]),
        _records("Agreement of annotators", card["agreement"], ["preference", "first", "second", "n", "exact", "kappa"]),
    ]
    return [table for table in made if table.rows]


def _records(title: str, records: list[dict[str, Any]], columns: list[str]) -> Table:
    return Table(title, columns, [["n/a" if of[column] is None else of[column] for column in columns] for of in records])


def _way(binning: dict[str, Any]) -> str:
    if "levels" in binning:
        return "table: " + ", ".join(f"{rating} → {'masked' if level is None else level}" for rating, level in binning["levels"].items())
    if "thresholds" in binning:
        measured = " (quantiles of the training ratings)" if binning["quantiles"] else ""
        means = ", ".join("none" if mean is None else f"{mean:.4g}" for mean in binning["means"])
        return f"level 1 up to {', then '.join(f'{t:.6g}' for t in binning['thresholds'])}{measured}; mean ratings of the levels: {means}"
    return "they are levels"
