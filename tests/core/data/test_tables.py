"""Tables are read in batches, with each row's number, and what can't be read is named with its remedy."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moslim_core import json_text
from moslim_core.data.bad_rows import BadRow, BadRows
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


def tsv(path: Path) -> None:
    path.write_text("\ufeffprompt\trating\n" + "".join(f"{r['prompt']}\t{r['rating']}\n" for r in ROWS))


def array(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", jsonl), ("a.jsonl.gz", gzipped), ("a.parquet", parquet), ("a.csv", csv), ("a.json", jsonl), ("a.json", array),
        ("a.jsonl", array), ("a.tsv", tsv), ("a.CSV", csv),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_numbered_rows(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    expected = [{**r, "rating": str(r["rating"])} for r in ROWS] if name.lower() in ("a.csv", "a.tsv") else ROWS
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_an_array_is_read_in_pieces_of_any_size(values: list[Any], size: int, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_text, "CHARACTERS", size)
        file = io.StringIO(text)
        assert list(json_text.elements(file, file.read(1))) == values
        for cut in (text[:-1], text + "x"):
            file = io.StringIO(cut)
            with pytest.raises(json_text.NotJSON):
                list(json_text.elements(file, file.read(1)))


@pytest.mark.parametrize(
    ("name", "content", "kept", "reasons"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n[1]\n{"a": "\xe9"}\n{"a": 1, "a": 2}\n{"a": 3}\n', [1, 6],
         ["not JSON", "no JSON object", "not UTF-8 text", "not JSON"]),
        ("a.json", b'[{"a": 1}, 2, {"a": "\xe9"}, {"a": 1, "a": 2}, {"a": 3}]', [1, 5], ["no JSON object", "not UTF-8 text", "not JSON"]),
        ("a.csv", b'a,b\n1,1\n2\na,b\n\xe9,1\n"1"x,2\n3,1\n', [1, 6],
         ["more or fewer fields than the header", "the header again", "not UTF-8 text", "not CSV"]),
    ],
)  # fmt: skip
def test_rows_after_a_bad_one_are_read(tmp_path: Path, name: str, content: bytes, kept: list[int], reasons: list[str]) -> None:
    (path := tmp_path / name).write_bytes(content)
    bad = BadRows("drop")
    told: list[BadRow] = []
    found = list(read_table(path, lambda error: (bad(error), told.append(error))[1]))
    assert [number for number, _ in found] == kept
    assert [error.reason for error in told] == reasons
    assert sum(of["rows"] for of in bad.record()) == len(reasons)
    with pytest.raises(UserError, match=r"row 2: (.|\n)*\nOr leave such rows out, counted in the data card: --set data\.bad_rows=drop"):
        list(read_table(path, BadRows("stop")))


def test_columns_of_a_parquet_file_have_names_of_their_own(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path := tmp_path / "a.parquet")
    with pytest.raises(UserError, match="the header names a more than once"):
        list(read_table(path))
