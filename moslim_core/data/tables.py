"""Tables row by row: JSON, Parquet and CSV, with errors that name file, row and remedy."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moslim_core.data.bad_rows import BadRow, OnBad, shown, stop
from moslim_core.data.rows import UNREADABLE, open_text, read_json_lines, save_as_text, unreadable
from moslim_core.errors import UserError
from moslim_core.json_text import NOT_TEXT, is_text

# By the name that `data.source` has for it.
FORMATS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".json", ".json.gz"),
    "parquet": (".parquet",),
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
}
# Of a folder's files those that hold rows; a .json beside them seldom does.
SUFFIXES = tuple(s for suffixes in FORMATS.values() for s in suffixes if not s.startswith(".json") or s.startswith(".jsonl"))

BATCH_ROWS = 500
# Python's default of 128 KiB is less than a long conversation.
FIELD_CHARACTERS = 2**27
# What separates fields, the likeliest first.
DELIMITERS = (",", ";", "\t", "|")
HEADER_CHARACTERS = 2**16
# How JSON begins; [id] may be a column's name.
_JSON = re.compile(r"[\[{]\s*(?:[\"\[{]|\Z)")


def read_table(path: Path, bad: OnBad = stop, form: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row by column) of a table, which is never held whole. `form`: one of FORMATS; by default what the file's name
    says, JSON if it says nothing.

    A row's number is its line in a JSON lines file; a CSV file's header is not counted, and all its values are text. `bad` is told of
    rows that can't be read. Raises UserError where the file can't be read on.
    """
    form = form or next((f for f, ends in FORMATS.items() if path.name.lower().endswith(ends)), None)
    if form == "parquet":
        return _parquet(path)
    if form == "csv":
        return _csv(path, bad)
    return read_json_lines(path, bad)


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _need_unique(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in _read(batch, path, number):
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}, after row {number}: not a whole Parquet file.\nCopy or download it again.") from error
    except UNREADABLE as error:
        raise unreadable(path, number, error) from error


def _read(batch: Any, path: Path, number: int) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except (OverflowError, ValueError, KeyError) as error:
        # A date of the year 20,000, a time zone that nobody knows, a record with one name twice.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{path}, after row {number}: a value can't be read ({reason}).\nLeave its column out, or write it as text."
        ) from error


def _csv(path: Path, bad: OnBad) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(FIELD_CHARACTERS)
    number = 0
    try:
        delimiter = _delimiter(path)
        with open_text(path, newline="") as file:
            lines = csv.reader(file, strict=True, delimiter=delimiter)
            header = [name.strip() for name in _header(lines)]
            _need_names(header, path)
            _need_unique(header, path)
            for number, fields in enumerate(_records(lines, path), start=1):
                if (problem := _problem(fields, header, path)) is not None:
                    bad(BadRow(f"{path}, row {number}", *problem))
                elif isinstance(fields, list):
                    yield number, {name: field for name, field in zip(header, fields, strict=True) if name}
    except UNREADABLE as error:
        raise unreadable(path, number, error) from error
    except csv.Error as error:
        raise UserError(f"{path}: not CSV ({error}).\nSeparate by commas, quote with double quotes.") from error


def _delimiter(path: Path) -> str:
    """What separates the header's fields: that which makes most of them; or what Excel's first line says."""
    with open_text(path, newline="") as file:
        start = file.read(HEADER_CHARACTERS)
    if start.lower().startswith("sep=") and start[4:5] not in ("", "\r", "\n"):
        return start[4]
    counted = {d: len(next(csv.reader(io.StringIO(start, newline=""), delimiter=d), [])) for d in DELIMITERS}
    return max(DELIMITERS, key=lambda d: counted[d])


def _header(lines: Any) -> list[str]:
    first: list[str] = next(lines, [])
    return next(lines, []) if first and first[0].lower().startswith("sep=") else first


def _records(lines: Any, path: Path) -> Iterator[list[str] | csv.Error]:
    """The records that hold anything. Raises UserError where a quote is never closed, as all that follows is inside it."""
    while True:
        begins = lines.line_num + 1
        try:
            fields = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise UserError(
                    f"{path}, line {begins}: a quote opens in this record and is never closed.\nClose it, or double it where text holds it."
                ) from error
            yield error
        else:
            if any(fields):
                yield fields


def _problem(fields: list[str] | csv.Error, header: list[str], path: Path) -> tuple[str, str, str] | None:
    """(reason, problem, remedy) of a record that is no row of the table."""
    if isinstance(fields, csv.Error):
        return "not CSV", f"not CSV ({fields})", "Separate by commas, quote with double quotes."
    if [field.strip() for field in fields] == header:
        return "the header again", "the header again", "Remove the line: tables were joined with their headers."
    if len(fields) != len(header):
        problem = f"{len(fields)} field{'' if len(fields) == 1 else 's'}, but the header names {len(header)}"
        return "more or fewer fields than the header", problem, "Put fields that hold separators, quotes or line breaks into quotes."
    return None if is_text("".join(fields)) else (NOT_TEXT, NOT_TEXT, save_as_text(path))


def _need_names(header: list[str], path: Path) -> None:
    """Raises UserError where the first line of a CSV file does not name columns."""
    first = header[0] if header else ""
    if is_text(first) and _JSON.match(first):
        raise UserError(f"{path}: its first line is JSON, though its name says CSV.\nRename the file: JSON lines end in .jsonl.")
    if first.startswith("#") and " " in first:
        raise UserError(
            f"{path}: its first line is a comment ({shown(first)}), where a table names its columns.\n"
            "Remove the line, or the # where it names them."
        )


def _need_unique(header: list[str], path: Path) -> None:
    if not is_text("".join(header)):
        raise UserError(f"{path}: the header is {NOT_TEXT}.\n{save_as_text(path)}")
    twice = [shown(name) for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise UserError(f"{path}: the header names {', '.join(twice[:3])} more than once.\nGive each column a name of its own.")
