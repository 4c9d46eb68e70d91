"""Whether the files of a model's folder are whole, without loading them: seconds, whatever the size of the weights. (ours)

A Git LFS pointer in place of a file, a download that was cut, a shard that is missing, JSON that is none: each would otherwise end in
a library's traceback, hours later, or in random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moslim_core.errors import UserError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Longer headers are not read by safetensors either.
LONGEST_HEADER = 100_000_000
# Any of them holds a tokenizer's vocabulary; without one the library makes an empty tokenizer up.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "vocab.json", "vocab.txt")
# What a model's or an adapter's folder is read by; other JSON in it is nobody's business.
READ = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Some say nothing, and need not.
MAY_BE_EMPTY = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# What else is read as text.
TEXTS = ("chat_template.jinja", "additional_chat_templates/*.jinja", "merges.txt", "vocab.txt")
INDEX = "model.safetensors.index.json"
AGAIN = "Download or copy the file again."


def check_folder(folder: Path) -> None:
    """Raises UserError naming the first file of a model's or an adapter's folder that is damaged or missing."""
    for name in (*READ, INDEX):
        if (folder / name).exists():
            read_json(folder / name)
    for pattern in TEXTS:
        for file in sorted(folder.glob(pattern)):
            _read_text(file)
    for file in sorted(folder.glob("*.safetensors")):
        check_tensors(file)
    if (folder / INDEX).is_file():
        placed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise UserError(f"{folder / INDEX} names no files of weights (weight_map).\n{AGAIN}")
        for shard in sorted(set(map(str, placed.values()))):
            if not (folder / shard).is_file():
                raise UserError(f"{folder / shard} is missing; {INDEX} names it.\nDownload or copy it too.")


def check_tokenizer(folder: Path) -> None:
    """Raises UserError where the folder holds no tokenizer, or files of one that are damaged."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(f"{folder / 'tokenizer.json'} is missing, and so is every other vocabulary.\nCopy the tokenizer's files there too.")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
        if (folder / name).exists():
            read_json(folder / name)
    for name in VOCABULARIES:
        if (folder / name).exists():
            _refuse_pointer(folder / name)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where it is no JSON object, empty, cut, not UTF-8, or a Git LFS pointer."""
    text = _read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: no whole JSON ({str(error).splitlines()[0][:120]}).\n{AGAIN}") from error
    if not isinstance(content, dict) or (not content and file.name not in MAY_BE_EMPTY):
        raise UserError(f"{file} is damaged: it says nothing, a JSON object with entries is needed.\n{AGAIN}")
    return content


def _read_text(file: Path) -> str:
    """A file's text. Raises UserError where it is a Git LFS pointer, or anything but UTF-8, in which every library here reads it."""
    _refuse_pointer(file)
    content = file.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start} of {len(content)}).\nSave it as UTF-8, or get it again.") from error
    if text.startswith("\ufeff"):
        raise UserError(f"{file} begins with a byte order mark, which is no part of its text.\nSave it as UTF-8 without one.")
    return text


def check_tensors(file: Path) -> None:
    """Raises UserError where a safetensors file is a Git LFS pointer, cut, or none at all."""
    _refuse_pointer(file)
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise ValueError("its header does not fit")
            header = json.loads(opened.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: no safetensors file ({str(error).splitlines()[0][:120]}).\n{AGAIN}") from error
    if size != 8 + length + end:
        raise UserError(f"{file} is damaged: it has {size} bytes, its header says {8 + length + end}.\n{AGAIN}")


def _refuse_pointer(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}).\nGive a folder whose files can be read.") from error
    if pointer:
        raise UserError(f"{file} is a Git LFS pointer, not the file itself.\nRun `git lfs pull` where it was cloned, or download it.")
