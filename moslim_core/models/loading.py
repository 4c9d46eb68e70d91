"""The one way in which models, backbones, reward models, adapters and tokenizers are loaded: whole, or refused. (ours)

Libraries warn about tensors that are missing, left over or misshapen and go on with random weights; here they never pass. The same
call with `device_map="meta"` compares names and shapes alone, in seconds and without memory for weights (preflight.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moslim_core.errors import UserError
from moslim_core.models import files
from moslim_core.models.quiet import quiet
from moslim_core.models.sources import PACKAGED

# Of a backbone: an encoder's pooler is not used here, so that it need not be there.
UNUSED = re.compile(r"(^|\.)pooler\.")
# Numbers that the architecture gives; some old files still hold them.
COMPUTED = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq|masked_bias|attn\.bias)$")


def from_pretrained(loader: Any, source: str, name: str, **options: Any) -> Any:
    """`loader.from_pretrained` with the network left alone unless the user named a hub id, and without running code that a model brings.

    Raises UserError naming the file or model, whatever its files make the library fail with.
    """
    import torch

    # On Hopper its backward pass gives NaN for some lengths of masked sequences, from torch 2.11 to 2.13 at least (pytorch #196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    local = os.path.isdir(source)
    if local:
        files.check_folder(Path(source))
    try:
        with quiet():
            return loader.from_pretrained(source, local_files_only=local, trust_remote_code=False, **options)
    except (UserError, torch.OutOfMemoryError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a library makes of a foreign or damaged file
        raise _refusal(error, source, name) from error


def load_weights(loader: Any, source: str, name: str, backbone: bool = False, **options: Any) -> Any:
    """A model with every one of its tensors from the files. `backbone`: the checkpoint may have output layers that are left out.

    Raises UserError naming a tensor that is missing, left over or misshapen.
    """
    if os.path.isdir(source) and os.path.exists(os.path.join(source, "adapter_config.json")):
        # transformers would put it on by itself, and the policy's own adapter would then take its place.
        raise UserError(f"{source} holds an adapter beside its weights (adapter_config.json).\nMerge it into the weights, or move it out.")
    # It alone needs torch.
    from moslim_core.models import attention

    attention.register()
    model, info = from_pretrained(
        loader, source, name, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    foreign = [key for key in info["unexpected_keys"] if not (COMPUTED.search(key) or (backbone and _beside(key, model)))]
    missing = [key for key in info["missing_keys"] if not (backbone and UNUSED.search(key))]
    misshapen = [f"{key}, {tuple(given)} in place of {tuple(needed)}" for key, given, needed in info["mismatched_keys"]]
    require_whole(f"model {source}" if os.path.isdir(source) else f"model {name!r}", missing, foreign, misshapen)
    if info.get("error_msgs"):
        raise UserError(f"model {name!r} could not be loaded: {_first_line(info['error_msgs'][0])}\n{files.AGAIN}")
    return model


def _beside(key: str, model: Any) -> bool:
    """Whether a tensor of the checkpoint stands beside the backbone: an output layer, a classifier, an encoder's pooler."""
    if UNUSED.search(key):
        return True
    prefix = model.base_model_prefix
    # Only names without the prefix: a layer more than the configuration has stands below it, or among the backbone's own children.
    return not key.startswith(f"{prefix}.") and key.split(".")[0] not in dict(model.named_children())


def require_whole(what: str, missing: Iterable[str], foreign: Iterable[str], misshapen: Iterable[str] = ()) -> None:
    """Raises UserError where tensors of `what` are missing, left over or misshapen: random or unused numbers never pass."""
    kinds = {"are missing": sorted(missing), "have no place in it": sorted(foreign), "have another shape": sorted(misshapen)}
    faults = [f"{len(keys)} tensors {fault} (first {keys[0]})" for fault, keys in kinds.items() if keys]
    if faults:
        raise UserError(
            f"{what} is not whole: {'; '.join(faults)}.\nIts files and its configuration do not fit: download or make it again."
        )


def check_adapter(folder: Path, model: Any, adapter: str = "default") -> None:
    """Raises UserError where the adapter's file in `folder` is not, tensor for tensor, the adapter that `model` has now."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    needed = set(get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False))
    file = folder / "adapter_model.safetensors"
    with safe_open(file, "pt") as opened:
        given = set(opened.keys())
    require_whole(str(file), needed - given, given - needed)


def load_adapter(base: Any, folder: Path) -> Any:
    """`base` under the adapter in `folder`. Raises UserError where it is damaged, not whole, or made for another model."""
    from peft import PeftModel

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        # PEFT would open a pickle in its place, or ask the hub.
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing.\nGive what `moslim policy` wrote.")
    files.read_json(folder / "adapter_config.json")
    files.check_tensors(folder / "adapter_model.safetensors")
    try:
        with quiet():
            model = PeftModel.from_pretrained(base, str(folder))
    except (UserError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever PEFT makes of a foreign or damaged adapter
        raise UserError(
            f"{folder}: the adapter does not fit the model it is for ({_first_line(error)}).\nGive it with the base that it was trained on."
        ) from error
    check_adapter(folder, model)
    return model


def load_tokenizer(source: str, name: str) -> Any:
    """The tokenizer of a model. Raises UserError where its files are missing, damaged or of a version that can't be read."""
    from transformers import AutoTokenizer

    if os.path.isdir(source):
        files.check_tokenizer(Path(source))
    try:
        tokenizer = from_pretrained(AutoTokenizer, source, name)
    except UserError:
        _require_readable(Path(source) / "tokenizer.json")
        raise
    if not len(tokenizer):
        raise UserError(f"model {name!r}: its tokenizer is empty.\nCopy the tokenizer's files there too.")
    return tokenizer


def _require_readable(file: Path) -> None:
    """Raises UserError where a tokenizer's file is of a version that the library here does not know."""
    from tokenizers import Tokenizer

    if not file.is_file():
        return
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{file} can't be read by tokenizers {version('tokenizers')}: {_first_line(error)}.\n"
            "Install the version that wrote it, or save the tokenizer again."
        ) from error


def require_vocabulary(tokenizer: Any, model: Any, source: str, used: Iterable[int] = ()) -> None:
    """Raises UserError where text can get tokens for which the model has no embedding: the tokenizer is another model's.

    A special token that nothing writes may be one too many: some tokenizers add it by themselves. `used`: those that something writes.
    """
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):
        # Some encoders (of characters, of hashes) have no table of tokens.
        return
    added = set(tokenizer.added_tokens_decoder)
    written = (number for number in tokenizer.get_vocab().values() if number not in added)
    own = (getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad", "cls", "sep"))
    most = max((*written, *used, *(number for number in own if number is not None)), default=-1)
    if most >= rows:
        raise UserError(
            f"{source}: the tokenizer has ids up to {most}, the model has embeddings for {rows}.\n"
            "Give the tokenizer that the model was made with."
        )


def _refusal(error: Exception, source: str, name: str) -> UserError:
    said = str(error)
    if "custom code" in said or "trust_remote_code" in said:
        return UserError(
            f"model {name!r} brings code of its own, which is not run here.\nGive a model whose architecture transformers has."
        )
    if isinstance(error, ImportError):
        return UserError(
            f"model {name!r} could not be loaded: a package is missing ({_first_line(error)}).\nInstall it, or give another model."
        )
    return UserError(
        f"model {name!r} could not be loaded: {_first_line(error)}\n"
        f"Give a local directory, a hub id that this machine can reach, or a packaged model: {', '.join(PACKAGED)}."
    )


def _first_line(error: object) -> str:
    """The first line of a message that says something, short enough for one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
