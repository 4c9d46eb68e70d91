"""`moslim init`: a commented profile from a file of rows, which trains as it is."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
import yaml

from flows import profile
from flows.cli.printed_commands import command
from moslim_core.data import sources
from moslim_core.data.bad_rows import BadRows, shown
from moslim_core.data.columns import Found, find
from moslim_core.data.first_levels import WORDS
from moslim_core.data.prepare import usable
from moslim_core.errors import UserError
from moslim_core.training.progress import Progress

# Tokens of a word of English, as small models cut it, with room for names and punctuation.
TOKENS_A_WORD = 1.6
# Updates of a warm start, rows in each, and its learning rate: enough for a small model to answer in the rows' manner.
WARM_UPDATES, WARM_BATCH, WARM_RATE = 30, 8, 1e-3
# Passes over the rows are no more than this: beyond, they are known by heart.
WARM_EPOCHS = 10.0
# How often a prompt is asked at most: with the same few again and again answers go to pieces.
MOST_ASKED = 5
# The share of rows that the policy may learn from: an independent judge has half of what tests and calibration leave.
TRAINING = 0.4
# What the instruction and the chat template add to a prompt, in tokens.
INSTRUCTION = 96
# On a CPU each token costs; a GPU has room for the longest answers.
LONGEST_ON_CPU, LONGEST = 64, 512
# Rated answers to a prompt that a step of the packaged profile takes.
RATED_EACH = 10
# The sections of the packaged profile that are taken as they are where there is no GPU.
SMALL = "demo"


class Machine(NamedTuple):
    """The models for a machine, and why."""

    base: str
    backbone: str
    gpu: bool
    why: str


def machine() -> Machine:
    """A chat model and a backbone that this machine can train."""
    import torch

    if not torch.cuda.is_available():
        why = f"{os.cpu_count()} CPU cores and no GPU: the packaged small models, which know English only"
        return Machine("smollm2-135m", "minilm-l6", False, why)
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    size = "7B" if memory > 70 else "1.5B" if memory > 20 else "0.5B"
    model = f"Qwen/Qwen2.5-{size}-Instruct"
    return Machine(model, model, True, f"{torch.cuda.get_device_name(0)} with {memory:.0f} GB; fetched from the hub")


def write(file: Path, output: Path, levels: Sequence[str] = (), as_json: bool = False) -> None:
    """Look at `file`, write `output`, say what is unclear. Raises UserError where `output` is there or `file` can't be used.

    `levels`: of columns whose words have an order that nobody else knows, `COLUMN=WORD,WORD,...`, lowest first. `as_json`: say it as one
    object.
    """
    if os.path.lexists(output):
        raise UserError(f"{output} is there already, and nothing is overwritten.\nGive another name: --output FILE.yaml")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent}: there is no such folder.\nMake it, or give another: --output FILE.yaml")
    if output.suffix not in (".yaml", ".yml") or str(output) in profile.packaged():
        raise UserError(f"--output {output}: a profile's name ends in .yaml.\nGive one: --output mine.yaml")
    if file.is_dir():
        raise UserError(f"{file} is a folder.\nGive one of its files; a run reads all of a folder: data.path in the profile.")
    if not os.path.exists(file):
        raise UserError(f"{file}: there is no such file.\nGive a file of rows: CSV, TSV, JSON, JSON lines or Parquet.")
    layout, here = find(file, dict(map(_order, levels))), machine()
    beside = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        beside.write_text(_text(file, output, layout, here, LeftOut({}, "")), encoding="utf-8")
        left_out = _left_out(str(beside))
        text = _text(file, output, layout, here, left_out)
        beside.write_text(text, encoding="utf-8")
        profile.load(str(beside))
        with output.open("x", encoding="utf-8") as whole:
            whole.write(text)
    except OSError as error:
        raise UserError(f"{output}: can't be written ({error.strerror or error}).\nGive another: --output FILE.yaml") from error
    finally:
        beside.unlink(missing_ok=True)
    told = _told(output, layout, here, left_out)
    typer.echo(json.dumps(told, indent=1, ensure_ascii=False) if as_json else _worded(told))


def _order(given: str) -> tuple[str, list[str]]:
    """(column, its words from the lowest level up). Raises UserError."""
    column, _, words = given.rpartition("=")
    order = [word.strip() for word in words.split(",") if word.strip()]
    if not column.strip() or len(order) < 2 or len({word.lower() for word in order}) < len(order):
        raise UserError(f"--levels {given}: a column and two different words are needed.\nWrite --levels COLUMN=LOWEST,...,HIGHEST")
    return column.strip(), order


class LeftOut(NamedTuple):
    """Rows that a run can't use: those that would stop it, by reason, and what is said of all."""

    bad: dict[str, int]
    said: str


def _left_out(written: str) -> LeftOut:
    """Of a run with this profile. Raises UserError where it can use no row."""
    settings = profile.load(written)
    opened = sources.open_sources(settings.data, settings.preferences)
    bad, dropped = BadRows("drop"), Counter[str]()
    used = sum(1 for _ in usable(opened, dropped, bool(settings.annotation.fill), bad, Progress()))
    reasons = "; ".join(f"{count} x {reason}" for reason, count in sorted((dropped + Counter(bad.counts)).items()))
    if not used:
        raise bad.first or UserError(f"{settings.data.where}: no row can be used ({reasons}).\nGive rows with answers and ratings.")
    return LeftOut(bad.counts, f"some rows can't be used ({reasons[:200]})" if reasons else "")


def _text(file: Path, output: Path, layout: Found, here: Machine, left_out: LeftOut) -> str:
    parts = [
        f"# From {shown(file.name)}: {layout.rows} rows, {layout.prompts} prompts. Written by `moslim init`; every line may be changed.",
        "# See what a run would learn from: " + shlex.join(["moslim", "data", "preview", "--profile", str(output)]),
        *(f"# UNCLEAR: {note}." for note in _unclear(layout)),
        "",
        "# What can be asked for. The level words stand in the prompt, lowest first: put your own words there.",
        "preferences:",
        *_preferences(layout),
        "",
        *_data(file, output, layout, left_out),
        "",
        f"# Chosen for {here.why}.",
        "model:",
        f"  base: {here.base}",
        "",
        *_training(layout, here),
    ]
    return "\n".join(parts) + "\n"


def _preferences(layout: Found) -> Iterator[str]:
    for column, name, levels in layout.ratings:
        yield f"  - name: {_quoted(name)}"
        yield f"    description: {_quoted(f'what column {shown(column)} rates')}  # say it in your words"
        yield f"    levels: [{', '.join(_quoted(label) for label in levels.labels)}]  # rows: {', '.join(map(str, levels.rows))}"
        for note in levels.notes:
            yield f"    # UNCLEAR: {note}."
    if layout.pairs and not layout.ratings:
        yield "  - name: quality"
        yield "    description: which of two answers was chosen"
        yield "    levels: [the worse answer, the better answer]"
    elif not layout.ratings:
        yield "  - name: verbosity"
        yield "    description: how many words the answer has"
        yield f"    levels: [{', '.join(WORDS[3][i] + ' verbosity' for i in range(3))}]"
        yield f"    annotator: {{measure: word_count, thresholds: [{', '.join(map(str, _thirds(layout)))}]}}"


def _thirds(layout: Found) -> list[int]:
    first, second = (int(np.quantile(layout.lengths[:, 1], share)) for share in (1 / 3, 2 / 3))
    return [max(1, first), max(2, first + 1, second)]


def _quoted(text: Any) -> str:
    """A text as YAML reads it back: plain where it can be."""
    return (
        yaml.safe_dump(text, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
        .removesuffix("\n")
        .removesuffix("\n...")
    )


def _data(file: Path, output: Path, layout: Found, left_out: LeftOut) -> Iterator[str]:
    here, home = file.absolute(), output.absolute().parent
    path = os.path.relpath(here, home) if here.is_relative_to(home) else str(here)
    yield "data:"
    yield f"  source: {layout.form}"
    yield f"  path: {_quoted(path)}"
    if left_out.said:
        yield f"  # UNCLEAR: {left_out.said}."
    if left_out.bad:
        yield "  bad_rows: drop"
    columns: dict[str, Any] = {}
    for key, column in (("prompt", layout.prompt), ("response", layout.response), ("messages", layout.messages)):
        if column is not None and column != key:
            columns[key] = column
    if layout.pairs:
        columns["pairs"] = layout.ratings[0].preference if layout.ratings else "quality"
    labels = {}
    for column, name, levels in layout.ratings:
        of: dict[str, Any] = {} if column == name else {"column": column}
        labels[name] = of | ({"levels": levels.table} if levels.table is not None else {"thresholds": list(levels.thresholds or ())})
    if columns or labels:
        yield "  columns:"
    for key, column in columns.items():
        yield f"    {key}: {_quoted(column)}"
    if labels:
        yield "    # Rating -> level, or K-1 rising thresholds: a rating up to the first is level 1."
        yield "    labels:"
    for name, of in labels.items():
        yield f"      {_quoted(name)}: {_quoted(of)}"
    for column, why in layout.unused.items():
        yield f"  # Not used: column {shown(column)} ({why})."
    if not layout.ratings and not layout.pairs:
        yield ""
        yield "# UNCLEAR: no column rates the answers: a rule measures them."
        yield "annotation:"
        yield "  fill: rules"


def _training(layout: Found, here: Machine) -> Iterator[str]:
    packaged = yaml.safe_load(files("flows").joinpath("profiles", f"{SMALL}.yaml").read_text(encoding="utf-8"))
    names = [r.preference for r in layout.ratings] or ["quality" if layout.pairs else "verbosity"]
    prompt, answer = (int(np.quantile(layout.lengths[:, i], 0.95) * TOKENS_A_WORD) + 8 for i in (0, 1))
    training = int(layout.several * TRAINING)
    longest = min(LONGEST if here.gpu else LONGEST_ON_CPU, max(16, answer))
    several = layout.several >= 10
    reward = {**packaged["reward"], "backbone": here.backbone, "max_length": min(512, max(64, prompt + answer))}
    policy = {
        **packaged["policy"],
        "prompts_per_step": max(1, min(packaged["policy"]["prompts_per_step"], training if several else int(layout.prompts * TRAINING))),
        "rated_answers": packaged["policy"]["rated_answers"] if several else 0.0,
        "max_new_tokens": longest,
        "max_prompt_tokens": min(1024, prompt + INSTRUCTION + 64),
    }
    if several and layout.answers < RATED_EACH:
        # What the data has too little of would be drawn: fewer answers to each request, and of these the three that differ most.
        requests = packaged["policy"]["targets_per_prompt"]
        policy["group_size"] = max(2, -(-(layout.answers + 1) // requests))
        answers = requests * policy["group_size"]
        policy["contrast"] = round(3 / answers, 2)
        policy["rated_answers"] = round(min(policy["rated_answers"], layout.answers / answers), 2)
    warm = not layout.pairs and not here.gpu
    if warm:
        asked_a_step = policy["prompts_per_step"]
        policy["steps"] = min(policy["steps"], max(1, round(MOST_ASKED * TRAINING * layout.prompts / asked_a_step)))
        policy["average_steps"] = min(policy["average_steps"], policy["steps"])
        epochs = min(WARM_EPOCHS, WARM_UPDATES * WARM_BATCH / (TRAINING * layout.rows))
        policy |= {
            "warm_start": "conditioned_sft",
            "sft": {"epochs": round(epochs, 2), "batch_size": WARM_BATCH, "learning_rate": WARM_RATE},
        }
    if layout.rows < 1000:
        # Few rows are passed over more often.
        reward["epochs"] = round(min(12.0, packaged["reward"]["epochs"] * 4000 / layout.rows), 1)
        reward["batch_size"] = 8 if layout.rows < 300 else 16
    if here.gpu:
        reward = {"backbone": here.backbone, "tuning": "lora", "epochs": 2, "learning_rate": 2e-4, "batch_size": 16}
        reward |= {"max_length": min(1024, max(64, prompt + answer)), "class_weights": "balanced", "gradient_checkpointing": True}
        # Larger models learn longer, at a lower rate, from fewer rows a pass.
        policy |= {"steps": 120, "average_steps": 10, "update": "adamw", "learning_rate": 3e-4}
        policy |= {"micro_batch": 8, "gradient_checkpointing": True}
    judge = "reward_model" if layout.ratings or layout.pairs else "annotators"
    evaluation = {**packaged["evaluation"], "judge": judge, "operating_points": max(4, len(names) + 1)}
    yield "reward:"
    yield from _keys(reward)
    yield ""
    yield "mapping:"
    yield from _keys({**packaged["mapping"], "weights": dict.fromkeys(names, 2)})
    yield ""
    if not several and not layout.pairs:
        yield "# Few prompts have several answers to compare, so the policy compares its own: `moslim sample` draws more to rate."
    if warm:
        yield "# A model so small hardly ever answers as somebody else wrote, and from its own answers it learns only what they show: it"
        yield "# first learns the rows' answers under their levels (warm_start)."
    yield "policy:"
    if answer > longest:
        yield f"  # UNCLEAR: one answer in twenty has more than about {answer} tokens; longer ones are cut here, to save time."
    yield from _keys(policy)
    yield ""
    if judge == "reward_model":
        yield "# The judge is a second reward model, trained on half of the training prompts."
    yield "evaluation:"
    yield from _keys(evaluation)


def _keys(section: dict[str, Any]) -> Iterator[str]:
    for key, value in section.items():
        yield f"  {key}: {_quoted(value)}"


def _unclear(layout: Found) -> list[str]:
    notes = list(layout.notes)
    if layout.prompts < 4:
        needed = "one each to train, calibrate and measure on, and one for a reward model that judges"
        notes.append(f"{layout.prompts} prompts: a run needs {needed}")
    elif layout.prompts < 50:
        notes.append(f"{layout.prompts} prompts are few: what is learnt may not carry to others")
    if layout.ratings:
        notes.append("whether a high rating is a high level: turn the words round where it is not")
    return notes


def _told(output: Path, layout: Found, here: Machine, left_out: LeftOut) -> dict[str, Any]:
    """What was found in the file and written for it."""
    nobody = [] if layout.ratings or layout.pairs else ["no column rates the answers; a rule measures their length until you give another"]
    return {
        "profile": str(output),
        "rows": layout.rows,
        "prompts": layout.prompts,
        "columns": {"prompt": layout.prompt, "answer": layout.response, "messages": layout.messages, "chosen and rejected": layout.pairs},
        "preferences": [
            {"name": name, "column": column, "rows": dict(zip(levels.labels, levels.rows, strict=True)), "unclear": list(levels.notes)}
            for column, name, levels in layout.ratings
        ],
        "not_used": layout.unused,
        "unclear": [*nobody, *_unclear(layout), *([f"{left_out.said}: they are left out"] if left_out.said else [])],
        "models": {"base": here.base, "backbone": here.backbone, "why": here.why},
        "next": command("data", "preview", "--profile", str(output)),
    }


def _worded(told: dict[str, Any]) -> str:
    """The same for a person."""
    columns = told["columns"]
    what = f"column {columns['messages']}" if columns["messages"] else f"prompt {columns['prompt']}, answer {columns['answer']}"
    lines = [f"{told['rows']} rows, {told['prompts']} prompts ({'chosen and rejected' if columns['chosen and rejected'] else what})"]
    for of in told["preferences"]:
        levels = ", ".join(f"{word} {count}" for word, count in of["rows"].items())
        lines += [f"  {of['name']} (column {shown(of['column'])}): {levels}", *(f"    unclear: {note}" for note in of["unclear"])]
    if columns["chosen and rejected"] and not told["preferences"]:
        lines.append(f"  quality: {told['rows']} choices between two answers")
    lines += [f"  not used: column {shown(column)} ({why})" for column, why in told["not_used"].items()]
    lines += [f"  unclear: {note}" for note in told["unclear"]]
    models = told["models"]
    lines += [
        f"models: {models['base']} and {models['backbone']} ({models['why']})", f"profile  {told['profile']}", f"next     {told['next']}"
    ]  # fmt: skip
    return "\n".join(lines)
