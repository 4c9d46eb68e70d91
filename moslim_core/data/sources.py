"""Rated answers and prompts, by source, checked row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moslim_core.data import starter
from moslim_core.data.rows import Row, conversation, read_json_lines
from moslim_core.errors import UserError
from moslim_core.preferences import Message, Preference, PreferenceSchema
from moslim_core.settings import ColumnSettings, DataSettings, LabelColumn

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
SUFFIXES = (".jsonl", ".jsonl.gz")


def rated_rows(settings: DataSettings, schema: PreferenceSchema) -> Iterator[tuple[str | None, Row, str]]:
    """(split that the source states, or None; row; place to name in errors). Raises UserError on bad input, naming file, row and remedy."""
    if settings.source == "starter":
        files: dict[str | None, Path] = {None: starter.ROWS}
    else:
        if settings.path is None:
            raise UserError("data.source=jsonl needs data.path.\nGive a .jsonl or .jsonl.gz file, or a folder with train.jsonl[.gz].")
        files = _files(settings.path)
    unknown = [name for name in settings.columns.labels if name not in schema.names]
    if unknown:
        raise UserError(
            f"data.columns.labels names {', '.join(unknown)}, which is no preference of the schema.\n"
            f"The schema has: {', '.join(schema.names)}."
        )
    for split, path in files.items():
        count = 0
        for number, value in read_json_lines(path):
            count += 1
            place = f"{path}, row {number}"
            yield split, _row(value, settings.columns, schema, place), place
        if count == 0:
            raise UserError(f"{path}: the file has no rows.\nGive a file with one JSON object a line.")


def prompts(path: Path) -> Iterator[tuple[str | None, list[Message], str]]:
    """(split that the row states, or None, prompt, place to name in errors) of a file or folder with a `prompt` column."""
    for file in _prompt_files(path):
        count = 0
        for number, value in read_json_lines(file):
            count += 1
            place = f"{file}, row {number}"
            _need(value, "prompt", place)
            yield value.get("split"), conversation(value["prompt"], place), place
        if count == 0:
            raise UserError(f"{file}: the file has no rows.\nGive a file with one prompt a line.")


def _prompt_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith(SUFFIXES))
        if not files:
            raise UserError(f"policy.prompts={path}: the folder has no .jsonl or .jsonl.gz file.\nGive a file of prompts.")
        return files
    if not path.exists():
        raise UserError(f"policy.prompts={path}: there is no such file.\nGive a .jsonl or .jsonl.gz file, or a folder of them.")
    return [path]


def _files(path: Path) -> dict[str | None, Path]:
    if not path.exists():
        raise UserError(f"data.path={path}: there is no such file or folder.\nGive a .jsonl or .jsonl.gz file, or a folder.")
    if path.is_file():
        return {None: path}
    found: dict[str | None, Path] = {}
    for split, names in SPLITS.items():
        for name in names:
            for suffix in SUFFIXES:
                if (file := path / f"{name}{suffix}").is_file():
                    found[split] = file
    if "train" not in found:
        raise UserError(f"data.path={path}: the folder has no train.jsonl or train.jsonl.gz.\nName the training file so, or give a file.")
    return found


def _need(value: dict[str, Any], column: str, place: str) -> None:
    if column not in value:
        raise UserError(
            f"{place}: column {column!r} is missing (there are: {', '.join(map(str, value)) or 'none'}).\n"
            "Name the column under data.columns in the profile, or rename it."
        )


def _row(value: dict[str, Any], columns: ColumnSettings, schema: PreferenceSchema, place: str) -> Row:
    for column in (columns.prompt, columns.response):
        _need(value, column, place)
    response = value[columns.response]
    if not isinstance(response, str):
        raise UserError(f"{place}: column {columns.response!r} holds {type(response).__name__}, text is needed.")
    labels = {}
    for preference in schema.preferences:
        mapping = columns.labels.get(preference.name) or LabelColumn()
        column = mapping.column or preference.name
        _need(value, column, place)
        level = _level(value[column], preference, mapping, column, place)
        if level is not None:
            labels[preference.name] = level
    source = value.get(columns.source) if columns.source else None
    return Row(conversation(value[columns.prompt], place), response, labels, str(source) if source is not None else "data")


def _level(rating: Any, preference: Preference, mapping: LabelColumn, column: str, place: str) -> int | None:
    if rating is None:
        return None
    if mapping.levels is not None:
        key = str(int(rating)) if isinstance(rating, float) and rating.is_integer() else str(rating)
        if key not in mapping.levels:
            raise UserError(
                f"{place}: {column}={rating!r} is not in the level mapping of {preference.name} ({', '.join(mapping.levels)}).\n"
                f"Add it under data.columns.labels.{preference.name}.levels (null masks it), or mend the row."
            )
        rating = mapping.levels[key]
        if rating is None:
            return None
    whole = isinstance(rating, int | float) and not isinstance(rating, bool) and float(rating).is_integer()
    if not whole or not 1 <= rating <= preference.k:
        raise UserError(
            f"{place}: {column}={rating!r} is no level of {preference.name} (1..{preference.k}, or null).\n"
            f"Map ratings to levels under data.columns.labels.{preference.name}.levels, or mend the row."
        )
    return int(rating)
