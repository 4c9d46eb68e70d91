"""Where benchmarks' files are: in the user's folder, or downloaded once from the public originals, pinned by revision and digest.

Nothing of a benchmark is in this package. What has no address here needs another form than its original has: give a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from moslim_core.data.rows import UNREADABLE, unreadable
from moslim_core.data.tables import read_table
from moslim_core.errors import UserError

T = TypeVar("T")

# Seconds without a byte.
TIMEOUT = 60.0

FASTCHAT = "raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data/mt_bench"
XSTEST = "raw.githubusercontent.com/paul-rottger/exaggerated-safety/d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"


class File(NamedTuple):
    """`holds`: what a row is; `origin`: where it is from; `url` and `sha256` where that is the very file."""

    holds: str
    origin: str
    url: str = ""
    sha256: str = ""


FILES = {
    "mt_bench/question.jsonl": File(
        "question_id, category, turns (two)",
        "github.com/lm-sys/FastChat (Apache-2.0)",
        f"https://{FASTCHAT}/question.jsonl",
        "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    ),
    "mt_bench/reference_answer_gpt-4.jsonl": File(
        "question_id, choices[0].turns (two)",
        "github.com/lm-sys/FastChat (Apache-2.0)",
        f"https://{FASTCHAT}/reference_answer/gpt-4.jsonl",
        "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
    ),
    "xstest/xstest_prompts.csv": File(
        "id, prompt, type, label (safe or unsafe)",
        "github.com/paul-rottger/exaggerated-safety (CC-BY-4.0)",
        f"https://{XSTEST}/xstest_prompts.csv",
        "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
    ),
    "cpo_eval/halueval2_200.jsonl": File(
        "id, category, user_query", "github.com/OpenBMB/CPO (MIT), test_data_honesty, without the honesty prefix"
    ),
    "cpo_eval/hackaprompt_harmful_bench_200.jsonl": File(
        "seq, instruction, prompt_level", "github.com/OpenBMB/CPO (MIT), test_data_harmlessness, without the harmlessness prefix"
    ),
    "hackaprompt/levels.json": File(
        "a list of level, template, second_template, target, banned_words", "the HackAPrompt competition (MIT)"
    ),
    "hackaprompt/flan_attempts.jsonl.gz": File("level, user_input, completions, correct", "github.com/terjanq/hack-a-prompt (MIT)"),
    "hackaprompt/competition_submissions.jsonl": File("level, user_input", "github.com/terjanq/hack-a-prompt (MIT)"),
}


def folder(names: Sequence[str], given: Path | None, cache: Path) -> Path:
    """The folder below which the files `names` are: the user's own if one is given, else `cache`, into which they are downloaded.

    Raises UserError if one can't be downloaded.
    """
    if given is not None:
        return given
    for name in names:
        if not FILES[name].url:
            raise UserError(f"{name} can't be downloaded in the form that is read.\nGive a folder that holds it: {_form(name)}")
        if not (cache / name).is_file():
            download(FILES[name].url, FILES[name].sha256, cache / name)
    return cache


def download(url: str, sha256: str, target: Path) -> None:
    """Write `target` if what is at `url` has the digest `sha256`, and nothing otherwise. Raises UserError."""
    try:
        response = httpx.get(url, timeout=TIMEOUT, follow_redirects=True)
        response.raise_for_status()
    except httpx.HTTPError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{url} can't be downloaded ({reason}).\nCheck the network, or give a folder that holds {target.name}.") from error
    if hashlib.sha256(response.content).hexdigest() != sha256:
        raise UserError(f"{url}: what came is not the file that was pinned (sha256).\nGive a folder that holds {target.name}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.{os.getpid()}")
    half.write_bytes(response.content)
    half.replace(target)


def records(folder: Path, name: str, made: Callable[[dict[str, Any]], T]) -> list[T]:
    """`made` of each row of the file `name`. Raises UserError if the file is missing, or naming the row that it can't be made of."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.\nGive a folder that holds it: {_form(name)}")
    found = []
    for number, row in _rows(path):
        try:
            found.append(made(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, row {number}: {type(error).__name__}: {error}.\nWhat a row needs: {_form(name)}") from error
    if not found:
        raise UserError(f"{path}: the file has no rows.\nWhat a row needs: {_form(name)}")
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix != ".json":
        return read_table(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error.msg}, line {error.lineno}).\nCopy or download it again.") from error
    except UNREADABLE as error:
        raise unreadable(path, 0, error) from error
    return iter(enumerate(rows if isinstance(rows, list) else [rows], start=1))


def _form(name: str) -> str:
    return f"{FILES[name].holds}; from {FILES[name].origin}."
