"""The policy as one GGUF file, for llama.cpp, Ollama and what builds on them: Llama, Qwen2 and Qwen3 models with byte-level BPE.

Names of tensors and keys are those of the `gguf` package. The chat template in it is the model's own: other programs' template engines
lack what ours needs, so that an instruction is pasted (card.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from moslim_core.errors import UserError
from moslim_core.export.card import Record, pasted_readme, write_data_card
from moslim_core.export.folder import new_folder
from moslim_core.export.merged import load_whole, weight_bytes
from moslim_core.models import DType, end_tokens, load_config
from moslim_core.policy.artifact import PolicyCard

FILE = "policy.gguf"
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
# How matrices are stored; `auto` is float16, as llama.cpp's own converter does it. Vectors stay float32.
TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32, 4),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16, 2),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16, 2),
}
# Scalings of rotary positions that are one factor per frequency.
ROPES = ("default", "linear", "llama3")
ELSEWHERE = "Export with --to merged, and convert that with llama.cpp's convert_hf_to_gguf.py."

# llama.cpp knows pre-tokenizers by name. {its name: what cuts a text before bytes become tokens, as tokenizer.json has it}
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS: dict[str, list[tuple[str, Any]]] = {
    "gpt-2": [("ByteLevel", True)],
    "smollm": [("Digits", True), ("ByteLevel", True)],
    "llama-bpe": [("Split", _WORDS % "{1,3}"), ("ByteLevel", False)],
    "qwen2": [("Split", _WORDS % ""), ("ByteLevel", False)],
}


def export_gguf(policy: Path, output: Path, cache: Path, dtype: DType, base: str | None, record: Record | None) -> Path:
    """Write `policy.gguf` and a README to `output`. Raises UserError for other architectures, and as `export_merged` does."""
    require_architecture(PolicyCard.load(policy).start(policy, cache, base), cache)
    model, tokenizer, card = load_whole(policy, cache, "float32", base)
    with new_folder(output, weight_bytes(model, TYPES[stored(dtype)][2])) as folder:
        write_gguf(folder / FILE, model, tokenizer, card.base.name, dtype)
        how = (
            f"```sh\nllama-cli -m {FILE} --temp 0.7                    # llama.cpp: a conversation\n"
            f"llama-server -m {FILE} --jinja                   # a server, OpenAI-compatible\n```\n\n"
            "transformers opens it with `AutoModelForCausalLM.from_pretrained(folder, "
            f'gguf_file="{FILE}")`.'
        )
        title = f"A GGUF file ({stored(dtype)}) of `{card.base.name}` (content {card.base.digest[:12]}) with the adapter merged into it."
        (folder / "README.md").write_text(pasted_readme(card, title, how, record), encoding="utf-8")
        write_data_card(folder, record)
    return output


def require_architecture(base: str, cache: Path) -> None:
    """Raises UserError, before any weights are read, where a model's architecture or its positions can't be written here."""
    config = load_config(base, cache)
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"--to gguf: the base model is a {config.model_type}, and {', '.join(ARCHITECTURES)} are what is written here.\n{ELSEWHERE}"
        )
    kind = config.rope_parameters.get("rope_type", "default")
    if kind not in ROPES:
        raise UserError(f"--to gguf: positions scaled by {kind!r} are not written here, only {', '.join(ROPES)}.\n{ELSEWHERE}")
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise UserError(f"--to gguf: layers that see a window of the text only are not written here.\n{ELSEWHERE}")


def write_gguf(file: Path, model: Any, tokenizer: Any, name: str, dtype: DType = "auto") -> None:
    """A causal language model in float32 as a GGUF file. Raises UserError where its tokenizer or its numbers have no place in one."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    kind, file_type, _ = TYPES[stored(dtype)]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture], use_temp_file=False)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"{name} with preferences")
    writer.add_file_type(file_type)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    rows = model.get_input_embeddings().weight.shape[0]
    writer.add_vocab_size(rows)
    _add_tokenizer(writer, tokenizer, rows, end_tokens(model, tokenizer))
    _add_tensors(writer, model, architecture, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(dtype: DType) -> str:
    """The dtype of the file: float16 where none is named."""
    return "float16" if dtype == "auto" else dtype


def _add_tensors(writer: gguf.GGUFWriter, model: Any, architecture: gguf.MODEL_ARCH, kind: gguf.GGMLQuantizationType) -> None:
    config = model.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    frequencies = _frequency_factors(model)
    if frequencies is not None:
        writer.add_tensor("rope_freqs.weight", frequencies)
    for key, tensor in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"--to gguf: the tensor {key} has no place in a {config.model_type}'s GGUF file.\n{ELSEWHERE}")
        if config.model_type == "llama":
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
            tensor = tensor if heads is None else _interleaved(tensor, heads)
        values = tensor.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        if kind == gguf.GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise UserError(f"--to gguf: {key} has numbers that float16 can't hold.\nGive --dtype bfloat16 or float32.")
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads x d, ...) of a projection with rotary pairs (i, i + d/2), reordered to pairs (2i, 2i + 1), which GGUF's Llama has."""
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _frequency_factors(model: Any) -> np.ndarray | None:
    """What each rotary frequency is divided by, (d/2,); None where all are plain."""
    parameters = model.config.rope_parameters
    if parameters.get("rope_type", "default") == "default":
        return None
    scaled = model.model.rotary_emb.inv_freq.float()
    plain = 1.0 / parameters["rope_theta"] ** (torch.arange(0, 2 * len(scaled), 2, dtype=torch.float32) / (2 * len(scaled)))
    return (plain / scaled).numpy()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, rows: int, ends: list[int]) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _pre_tokenizer(content)
    added = {int(token["id"]): token for token in content["added_tokens"]}
    of_id = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for number in range(rows):
        if number in added:
            tokens.append(added[number]["content"])
            types.append(gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED)
        elif number in of_id:
            tokens.append(of_id[number])
            types.append(gguf.TokenType.NORMAL)
        else:
            # Tables of embeddings are often longer than the vocabulary.
            tokens.append(f"[PAD{number}]")
            types.append(gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]])
    # The end of a turn is what ends an answer; an end of text beside it ends one, too.
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    for add, number in ((writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_pad_token_id, tokenizer.pad_token_id)):
        if number is not None:
            add(number)
    writer.add_add_bos_token(adds_beginning(tokenizer))
    writer.add_add_eos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def adds_beginning(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a token before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _pre_tokenizer(content: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer cuts texts. Raises UserError for one that it has no name for here."""
    cutter = content["pre_tokenizer"] or {"type": "none"}
    steps = [_step(part) for part in (cutter["pretokenizers"] if cutter["type"] == "Sequence" else [cutter])]
    name = next((name for name, known in PRE_TOKENIZERS.items() if steps == known), None)
    plain = (content["normalizer"] or {"type": "NFC"})["type"] == "NFC"
    if content["model"]["type"] != "BPE" or name is None or not plain:
        raise UserError(
            f"--to gguf: the tokenizer ({content['model']['type']}, cut by {', '.join(kind for kind, _ in steps)}) is none that is written "
            f"here: byte-level BPE as in {', '.join(PRE_TOKENIZERS)}.\n{ELSEWHERE}"
        )
    return name


def _step(part: dict[str, Any]) -> tuple[str, Any]:
    kind = part["type"]
    if kind == "ByteLevel":
        return kind, None if part["add_prefix_space"] else part["use_regex"]
    if kind == "Digits":
        return kind, part["individual_digits"]
    if kind == "Split":
        return kind, part["pattern"].get("Regex") if part["behavior"] == "Isolated" and not part["invert"] else None
    return kind, None
