"""The policy as one plain model: adapter merged into the base, and a chat template that writes the instruction by itself. (ours)

transformers and vLLM open the folder with nothing of this project.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moslim_core.export.card import Record, policy_readme, write_data_card
from moslim_core.export.chat_template import with_preferences
from moslim_core.export.folder import new_folder
from moslim_core.models import DType, end_tokens, load_config
from moslim_core.policy.artifact import PolicyCard, load_policy
from moslim_core.preferences import PreferenceSchema
from moslim_core.sampling import generation_config

# What `moslim chat` draws with.
TEMPERATURE = 0.7
# Beside the model: what can be requested and where it stands, for whoever builds a form.
PREFERENCES = "preferences.json"


def export_merged(policy: Path, output: Path, cache: Path, dtype: DType, base: str | None, record: Record | None) -> Path:
    """Write the policy in `policy` to `output`. Raises UserError as `load_policy` and `new_folder` do."""
    model, tokenizer, card = load_whole(policy, cache, dtype, base)
    with new_folder(output, weight_bytes(model)) as folder:
        _fill(folder, model, tokenizer, card, record)
    return output


def publish(
    policy: Path, output: Path | None, cache: Path, dtype: DType, base: str | None, record: Record | None, push: Callable[[Path], str]
) -> str:
    """Push the files of `export_merged`, and keep them in `output` if that is named; gives what `push` gives. Raises as both do."""
    model, tokenizer, card = load_whole(policy, cache, dtype, base)
    with tempfile.TemporaryDirectory(prefix="moslim-") as temp, new_folder(output or Path(temp, "model"), weight_bytes(model)) as folder:
        _fill(folder, model, tokenizer, card, record)
        return push(folder)


def _fill(folder: Path, model: Any, tokenizer: Any, card: PolicyCard, record: Record | None) -> None:
    save_merged(folder, model, tokenizer, card)
    (folder / "README.md").write_text(policy_readme(card, tokenizer, str(model.dtype).removeprefix("torch."), record), encoding="utf-8")
    write_data_card(folder, record)


def save_merged(folder: Path, model: Any, tokenizer: Any, card: PolicyCard) -> None:
    """The files of a policy whose adapter is merged, in `folder`; the tokenizer is left as it was."""
    ends = end_tokens(model, tokenizer)
    own_template, own_generation = tokenizer.chat_template, model.generation_config
    model.generation_config = generation_config(ends, tokenizer.pad_token_id, TEMPERATURE)
    tokenizer.chat_template = with_preferences(own_template, card.preferences, card.placement)
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template, model.generation_config = own_template, own_generation
    # Batches are drawn after their prompts' ends; the library does not write this by itself, but how it was loaded here.
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    entries = {name: value for name, value in config.items() if name not in ("is_local", "local_files_only")}
    text = json.dumps({**entries, "padding_side": "left"}, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / PREFERENCES).write_text(json.dumps(said(card.preferences, card.placement), indent=1), encoding="utf-8")


def said(schema: PreferenceSchema, placement: str) -> dict[str, Any]:
    """What can be requested, as JSON data; how answers are measured is left out."""
    fields = ("name", "description", "levels", "floor")
    return {"placement": placement, "preferences": [p.model_dump(mode="json", include=set(fields)) for p in schema.preferences]}


def load_whole(policy: Path, cache: Path, dtype: DType, base: str | None) -> tuple[Any, Any, PolicyCard]:
    """(merged policy on the CPU, tokenizer, card). `auto`: in the dtype that the base is stored in."""
    card = PolicyCard.load(policy)
    start = card.start(policy, cache, base)
    if dtype == "auto":
        stored = str(load_config(start, cache).dtype).removeprefix("torch.")
        dtype = stored if stored in ("bfloat16", "float16") else "float32"  # type: ignore[assignment]
    return load_policy(policy, cache, dtype, "cpu", base)


def weight_bytes(model: Any, of_each: int | None = None) -> int:
    """Bytes of a model's weights, in its own dtype or with `of_each` bytes a number; tied ones count once."""
    return sum(p.numel() * (of_each or p.element_size()) for p in model.parameters())
