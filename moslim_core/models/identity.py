"""Which model it is: what counts is the content of its files, not what it is called or where it lies. (ours)

The content of a file is digested once: the digest is noted in the model cache under the file's device, inode, size and times, which all
change when its bytes do. The cache also notes where models lie, so that a policy, whose card names no place, finds its base again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from moslim_core.errors import UserError
from moslim_core.models.sources import PACKAGED, resolve

# Folders below a model's that its loading reads: how a sentence-transformers model pools, and chat templates beside the default.
FOLDERS = ("1_Pooling", "additional_chat_templates")
# Of a training's folder, and no part of the model that it saved.
NO_PART = ("trainer_state.json", "train_results.json", "eval_results.json", "all_results.json")
# Seconds. The times of a file that has just been written may stand for two contents.
SETTLED = 2.0


class ModelId(BaseModel):
    """A model as cards name it, without a place. `digest`: of its content; `revision`: the commit, for a model of the hub."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it was a folder of somebody's machine, which its name does not lead to."""
        packaged = PACKAGED.get(self.name)
        return self.revision is None and (packaged is None or packaged.sha256 != self.digest)


class ModelRef(BaseModel):
    """A model on this machine. `named`: by the user, or so that loading finds it; `source`: the folder of its files, None for a packaged
    one, which is unpacked when it is loaded."""

    model_config = ConfigDict(frozen=True)

    named: str
    source: Path | None
    id: ModelId


def identify(named: str, cache: Path) -> ModelRef:
    """The model that a setting names; one of the hub is fetched. Raises UserError as `resolve` does, and where it has no files."""
    if named in PACKAGED:
        return ModelRef(named=named, source=None, id=ModelId(name=named, digest=PACKAGED[named].sha256))
    source = Path(resolve(named, cache)).absolute()
    digest = content_digest(source, cache)
    if os.path.isdir(os.path.expanduser(named)):
        _note(digest, source, cache)
        return ModelRef(named=named, source=source, id=ModelId(name=public_name(named), digest=digest))
    # The hub's client names a snapshot's folder by its commit.
    return ModelRef(named=named, source=source, id=ModelId(name=public_name(named), digest=digest, revision=source.name))


def public_name(named: str) -> str:
    """What may stand in a card that others read: a hub id or a packaged name, of a folder its own name without the way to it."""
    path = Path(os.path.expanduser(named))
    return path.absolute().name if path.is_absolute() or os.path.isdir(path) else named.partition("@")[0]


def find(wanted: ModelId, cache: Path, given: str | None = None) -> ModelRef:
    """The model of a card: what is `given` for it, else what its name says, else where a model with its content was seen before.

    Raises UserError where there is none, or where what is there is not the same any more.
    """
    if given is not None:
        model = identify(given, cache)
        if model.id.digest != wanted.digest:
            raise UserError(
                f"{given} is not the model that was trained on: the content of {wanted.name} was {wanted.digest[:12]}, "
                f"here it is {model.id.digest[:12]}.\nGive the folder of {wanted.name} as it was, or train again on this one."
            )
        return model
    if wanted.is_folder:
        places = list(_still_there(_noted(wanted.digest, cache), cache))
    else:
        places = [identify(f"{wanted.name}@{wanted.revision}" if wanted.revision else wanted.name, cache)]
    same = next((place for place in places if place.id.digest == wanted.digest), None)
    if same is not None:
        return same
    if places:
        raise UserError(
            f"the base model {wanted.name} has changed: {places[0].source or wanted.name} has other files than when it was trained on.\n"
            f"Put them back (content {wanted.digest[:12]}), or train again."
        )
    raise UserError(
        f"the base model {wanted.name} (content {wanted.digest[:12]}) is not known here: it was a folder.\n"
        "Say where it is: --base FOLDER for moslim chat, base=FOLDER in Python, --set model.base=FOLDER for what has settings."
    )


def _still_there(places: list[Path], cache: Path) -> Iterator[ModelRef]:
    for place in places:
        with contextlib.suppress(UserError):
            yield identify(str(place), cache)


def content_digest(folder: Path, cache: Path) -> str:
    """sha256 of a model's files by their names: weights, configuration, tokenizer, templates. Raises UserError where there are none."""
    files = sorted({p for inner in (folder, *(folder / name for name in FOLDERS)) for p in inner.glob("*") if _counts(p)} | _below(folder))
    if not files:
        raise UserError(f"{folder} has no files of a model.\nGive a folder that save_pretrained wrote.")
    try:
        content = {file.relative_to(folder).as_posix(): _file_digest(file, cache) for file in files}
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} can't be read ({error.strerror or error}).\nMake it readable, or give another."
        ) from error
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _below(folder: Path) -> set[Path]:
    """Weights in folders of a model's, where an index of shards may lead; not those of a training's checkpoints."""
    weights = (p for p in folder.rglob("*.safetensors") if p.parent != folder)
    return {p for p in weights if not p.relative_to(folder).parts[0].startswith((".", "checkpoint-")) and p.is_file()}


def _counts(path: Path) -> bool:
    loaded = path.suffix in (".safetensors", ".json", ".jinja", ".model", ".tiktoken", ".spm", ".bpe", ".codes")
    vocabulary = path.suffix == ".txt" and path.stem.startswith(("vocab", "merges", "tokenizer"))
    return (loaded or vocabulary) and not path.name.startswith(".") and path.name not in NO_PART and path.is_file()


def _file_digest(path: Path, cache: Path) -> str:
    status = path.stat()
    digest_file = cache / "digests" / f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = digest_file.read_text()
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED and path.stat().st_ctime_ns == status.st_ctime_ns:
        _keep(digest_file, digest)
    return digest


def _note(digest: str, source: Path, cache: Path) -> None:
    known = _noted(digest, cache)
    if source not in known:
        _keep(cache / "places" / digest, "\n".join(str(place) for place in (source, *known)))


def _noted(digest: str, cache: Path) -> list[Path]:
    try:
        return [Path(line) for line in (cache / "places" / digest).read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    except OSError:
        return []


def _keep(file: Path, text: str) -> None:
    """A file with this text, whole or not at all. What can't be kept is found out again."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.partial")
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
        unfinished.replace(file)
