"""Tables are read in batches, with each row's number, and what can't be read is named with its remedy."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moslim_core.data.tables import BATCH_ROWS, read_table
from moslim_core.errors import UserError

ROWS: list[dict[str, Any]] = [{"prompt": f"Rain {n}?", "rating": n} for n in range(BATCH_ROWS + 7)]


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def csv(path: Path) -> None:
    path.write_text("prompt,rating\r\n" + "".join(f"{r['prompt']},{r['rating']}\r\n" for r in ROWS))


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", jsonl), ("a.jsonl.gz", gzipped), ("a.parquet", parquet), ("a.csv", csv), ("a.json", jsonl)]
)
def test_every_format_gives_the_same_numbered_rows(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    expected = [{**r, "rating": str(r["rating"])} for r in ROWS] if name == "a.csv" else ROWS
    assert list(read_table(tmp_path / name)) == list(enumerate(expected, start=1))


def test_csv_fields_may_hold_anything_in_quotes(tmp_path: Path) -> None:
    text = "x" * 200_000 + ' "quoted",\nnew line'
    (tmp_path / "a.csv").write_text('prompt,rating\n"' + text.replace('"', '""') + '",1\n\n,2\n')
    assert list(read_table(tmp_path / "a.csv")) == [(1, {"prompt": text, "rating": "1"}), (2, {"prompt": "", "rating": "2"})]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"prompt,rating\nRain,1\nSnow\n", "row 2: 1 field, but the header names 2.\nPut fields that hold separators"),
        ("a.csv", b'prompt,rating\nRain,"1"x\n', "row 1: not CSV"),
        ("a.csv", b"prompt\ncaf\xe9\n", "row 1: not UTF-8 text.\nSave the file as UTF-8"),
        ("a.parquet", b"PAR1 and no more", "not a whole Parquet file.\nCopy or download it again."),
        ("a.parquet", b"", "not a whole Parquet file.\nCopy or download it again."),
    ],
)
def test_what_can_not_be_read_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_table(path))
    assert str(path) in str(caught.value) and problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_folder_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"can't be read .*\nCheck the path"):
        list(read_table(tmp_path / name))


def test_truncated_parquet_is_named_with_the_rows_read(tmp_path: Path) -> None:
    parquet(path := tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"not a whole Parquet file"):
        list(read_table(path))
