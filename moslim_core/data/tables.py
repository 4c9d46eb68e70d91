"""Tables row by row: JSON lines, Parquet and CSV, with errors that name file, row and remedy."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moslim_core.data.rows import UNREADABLE, read_json_lines, unreadable
from moslim_core.errors import UserError

# By the name that `data.source` has for it.
FORMATS = {"jsonl": (".jsonl", ".jsonl.gz"), "parquet": (".parquet",), "csv": (".csv",)}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

BATCH_ROWS = 500
# Python's default of 128 KiB is less than a long conversation.
FIELD_CHARACTERS = 2**27


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row by column) of a table, which is never held whole: .parquet, .csv, everything else JSON lines.

    A row's number is its line in a JSON lines file; a CSV file's header is not counted, and all its values are text. Raises
    UserError.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".csv":
        return _csv(path)
    return read_json_lines(path)


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}, after row {number}: not a whole Parquet file.\nCopy or download it again.") from error
    except UNREADABLE as error:
        raise unreadable(path, number, error) from error


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(FIELD_CHARACTERS)
    number = 0
    try:
        # Spreadsheets write a byte order mark, which is no part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            for number, fields in enumerate(filter(None, lines), start=1):
                if len(fields) != len(header):
                    raise UserError(
                        f"{path}, row {number}: {len(fields)} field{'' if len(fields) == 1 else 's'}, but the header names {len(header)}.\n"
                        "Put fields that hold commas, quotes or line breaks into quotes."
                    )
                yield number, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, row {number + 1}: not CSV ({error}).\nSeparate by commas, quote with double quotes.") from error
    except UNREADABLE as error:
        raise unreadable(path, number, error) from error
