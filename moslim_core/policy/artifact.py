"""What a trained policy is on disk: a LoRA adapter, the tokenizer, and `moslim_policy.json` with all that its use needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveInt, ValidationError

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.models import DeviceName, DType
from moslim_core.models.files import read_json
from moslim_core.models.identity import ModelId, find
from moslim_core.models.loading import load_adapter
from moslim_core.policy.conditioning import held_out_combinations
from moslim_core.preferences import Placement, PreferenceSchema
from moslim_core.reward.settings import MappingSettings
from moslim_core.settings import Settings
from moslim_core.training.adapters import name_base

# PEFT's name for the adapter that is the policy.
ADAPTER = "default"
POLICY_FILE = "moslim_policy.json"
# Beside it, where the policy stage trained it: the metrics of its training.
TRAINING_LOG = "training.jsonl"
# Folder in the policy's with a base of its own, where a warm start made one.
BASE = "base"


class PolicyCard(BaseModel):
    """How the policy is prompted (schema, placement) and how it was trained (base, mapping and its statistics, held-out pairs)."""

    base: ModelId
    preferences: PreferenceSchema
    placement: Placement
    optimiser: str
    steps: int
    max_new_tokens: PositiveInt
    mapping: MappingSettings
    mapping_state: dict[str, Any]
    held_out: list[dict[str, int]]

    @classmethod
    def of(cls, settings: Settings, start: ModelId, steps: int, mapping_state: dict[str, Any]) -> PolicyCard:
        """Of a policy that was trained by `settings` from `start`."""
        policy, schema = settings.policy, settings.preferences
        return cls(
            base=start,
            preferences=schema,
            placement=policy.placement,
            optimiser=policy.optimiser,
            steps=steps,
            max_new_tokens=policy.max_new_tokens,
            mapping=settings.mapping,
            mapping_state=mapping_state,
            held_out=[dict(pair) for pair in held_out_combinations(schema, policy, settings.seed)],
        )

    def save(self, directory: Path) -> None:
        """Write it into the policy's folder."""
        (directory / POLICY_FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")

    def start(self, directory: Path, cache: Path, given: str | None = None) -> str:
        """The model that the policy in `directory` was at RL step 0: that of a warm start is in its folder, others are `given`, or
        looked up by name and content. Raises UserError where it is not known here, or not what it was."""
        own = directory / BASE
        return find(self.base, cache, str(own) if self.base.name == BASE and own.is_dir() else given).named

    @classmethod
    def load(cls, directory: Path) -> PolicyCard:
        """Raises UserError if `directory` is no policy."""
        file = directory / POLICY_FILE
        if not file.is_file():
            raise UserError(f"{directory} is no policy of this project: {POLICY_FILE} is missing.\nGive what `moslim policy` wrote.")
        try:
            return cls.model_validate(read_json(file))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{file} is damaged: {where}: {first['msg']}.\nGive what `moslim policy` wrote.") from error


def save_policy(
    output: Path,
    model: Any,
    adapter: dict[str, Any],
    tokenizer: Any,
    card: PolicyCard,
    history: Sequence[Mapping[str, float]],
) -> None:
    """Save a PeftModel's adapter (tensors by the names of its parameters), tokenizer, card and README. `history`: figures of each step."""
    from moslim_core.policy.card import model_card

    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output, selected_adapters=[ADAPTER], state_dict=adapter)
    name_base(output, card.base.name)
    tokenizer.save_pretrained(output)
    card.save(output)
    (output / "README.md").write_text(model_card(card, history), encoding="utf-8")


def load_policy(
    directory: Path, cache: Path, dtype: DType = "auto", device: DeviceName = "auto", base: str | None = None
) -> tuple[Any, Any, PolicyCard]:
    """(policy with its adapter merged into the base, tokenizer, card). `base` says where the base is if `cache` does not know.

    Raises UserError where a file of the policy is damaged or not whole, or its base is not known here or has changed.
    """
    card = PolicyCard.load(directory)
    start, tokenizer = models.load_chat_model(card.start(directory, cache, base), cache, dtype, device)
    try:
        policy = load_adapter(start, directory).merge_and_unload(safe_merge=True)
    except (AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{directory}: the adapter can't be merged into its base ({reason}).\nGive what `moslim policy` wrote.") from error
    return policy.eval(), tokenizer, card
