"""The multi-head reward model: one backbone, one classifier per preference (docs/method.md section 2).

It reads the plain question and the answer, never the instruction that the policy sees.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from moslim_core import models, registry
from moslim_core.errors import UserError
from moslim_core.models.files import read_json
from moslim_core.models.loading import load_tokenizer, load_weights, require_vocabulary
from moslim_core.preferences import PreferenceSchema, text_tokens
from moslim_core.preferences.tokens import beginning_tokens
from moslim_core.reward.calibration import calibrated
from moslim_core.reward.heads import Head

# Key of the optional head that tells which preferences an answer is about; no preference can have this name.
APPLICABILITY = "(applicability)"

# Folder beside the model with the LoRA adapter that the merged weights hold.
ADAPTER = "adapter"

# Families whose first token is trained to stand for the text; other encoders are averaged, decoders give their last token.
CLS_FAMILIES = ("bert", "roberta", "deberta", "deberta-v2", "electra", "modernbert", "xlm-roberta")


class MultiHeadRewardConfig(PretrainedConfig):
    """The backbone's configuration, the preference schema, the pooling, and per head a type and a calibration.

    `shared`: one backbone for all heads; off, one of the same kind for each (for comparison). `adapter_of`: {name, digest, revision}
    of the model whose weights the backbone has but for the adapter that lies beside it, if that is how it was trained.
    """

    model_type = "moslim_multi_head_reward"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        preferences: list[dict[str, Any]] | None = None,
        pooling: str = "mean",
        max_tokens: int = 192,
        heads: list[str] | None = None,
        applicability: bool = False,
        scales: list[float] | None = None,
        shifts: list[list[float]] | None = None,
        shared: bool = True,
        adapter_of: dict[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone
        self.preferences = preferences
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.heads = heads
        self.applicability = applicability
        self.scales = scales
        self.shifts = shifts
        self.shared = shared
        self.adapter_of = adapter_of
        super().__init__(**kwargs)

    def schema(self) -> PreferenceSchema:
        """The preferences that the heads are for."""
        return PreferenceSchema.model_validate(self.preferences)

    def head_types(self) -> list[str]:
        """One per preference; classification where none is stated."""
        return self.heads or ["classification"] * len(self.schema())


class MultiHeadRewardModel(PreTrainedModel):
    """`forward` gives one (n, width_i) tensor of outputs per preference; `probabilities` makes p_i of them."""

    config_class = MultiHeadRewardConfig

    def __init__(self, config: MultiHeadRewardConfig) -> None:
        super().__init__(config)
        if config.backbone is None:
            raise ValueError("MultiHeadRewardConfig.backbone is missing")
        backbone = dict(config.backbone)
        backbone_config = AutoConfig.for_model(backbone.pop("model_type"), **backbone)
        # BERT's own pooler is unused by these heads; leaving it out saves its weights and a warning.
        options = {"add_pooling_layer": False} if backbone_config.model_type in ("bert", "roberta") else {}
        schema, width = config.schema(), backbone_config.get_text_config().hidden_size
        count = 1 if config.shared else len(schema)
        self.backbones = nn.ModuleList(AutoModel.from_config(backbone_config, **options) for _ in range(count))
        self.heads = nn.ModuleList(registry.head[kind](width, p.k) for kind, p in zip(config.head_types(), schema.preferences, strict=True))
        self.names = schema.names
        self.applicability = nn.Linear(width, len(schema)) if config.applicability else None
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: in custom models the library leaves out what a backbone computes and no file holds, such as Falcon-H1's multipliers."""
        return False

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask (n, length) -> {preference: outputs (n, width_i)} in float32.

        With an applicability head also {APPLICABILITY: logits (n, m)}.
        """
        extra = {k: v for k, v in extra.items() if k == "token_type_ids"}
        pooled = [
            pool(
                backbone(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state, attention_mask, self.config.pooling
            )
            for backbone in self.backbones
        ]
        if not torch.is_autocast_enabled(input_ids.device.type):
            # A backbone that a policy shares may have another dtype than the heads.
            pooled = [states.to(next(self.heads.parameters()).dtype) for states in pooled]
        of_head = pooled * (len(self.names) // len(pooled))
        outputs = {name: head(states).float() for name, head, states in zip(self.names, self.heads, of_head, strict=True)}
        if self.applicability is not None:
            outputs[APPLICABILITY] = self.applicability(pooled[0]).float()
        return outputs

    @property
    def head_of(self) -> dict[str, Head]:
        """{preference: its head}."""
        return dict(zip(self.names, cast("list[Head]", list(self.heads)), strict=True))

    def probabilities(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """{preference: outputs (n, width_i)} -> {preference: p (n, K_i)}, calibrated once `scales` and `shifts` are fitted."""
        scales = self.config.scales or [1.0] * len(self.names)
        shifts = self.config.shifts or [[0.0] * head.k for head in self.head_of.values()]
        return {
            name: calibrated(head, outputs[name], scale, shift).exp()
            for (name, head), scale, shift in zip(self.head_of.items(), scales, shifts, strict=True)
        }


def pool(states: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    """(n, length, d) -> (n, d): the first token, the mean over real tokens, or the last real token (padding on either side)."""
    if how == "cls":
        return states[:, 0]
    if how == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * positions).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def create(
    source: str,
    schema: PreferenceSchema,
    layers: int | None,
    max_length: int,
    head: str = "classification",
    applicability: bool = False,
) -> tuple[MultiHeadRewardModel, Any]:
    """(new model on a pretrained backbone, its tokenizer). `layers` keeps the first n. Raises UserError if there are fewer."""
    backbone = load_weights(AutoModel, source, source, backbone=True, dtype=torch.float32)
    config, text = backbone.config, backbone.config.get_text_config()
    require_layers(source, config, layers)
    if layers is not None:
        _, stack = models.layer_stack(backbone)
        del stack[layers:]
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    tokenizer = backbone_tokenizer(source)
    require_vocabulary(tokenizer, backbone, source)
    model = MultiHeadRewardModel(
        MultiHeadRewardConfig(
            backbone=without_place(config.to_dict()),
            preferences=schema.model_dump(mode="json"),
            pooling=pooling_of(source, config),
            max_tokens=min(max_length, models.context(config)),
            heads=[head] * len(schema),
            applicability=applicability,
        )
    )
    weights = {k: v for k, v in backbone.state_dict().items() if k in model.backbones[0].state_dict()}
    model.backbones[0].load_state_dict(weights)
    return model, tokenizer


def without_place(config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration without the folder that it was loaded from, which is nobody else's business."""
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "name_or_path")}


def require_layers(source: str, config: Any, layers: int | None) -> None:
    """Raises UserError where a backbone has fewer than `layers` layers, or is no text model of one part."""
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"reward.backbone {source} is an encoder with a decoder ({config.model_type}).\nGive an encoder, or a decoder: a BERT, a Llama."
        )
    has = config.get_text_config().num_hidden_layers
    if layers is not None and layers > has:
        raise UserError(f"reward.layers={layers}, but the backbone {source} has {has} layers.\nGive at most {has}.")


def backbone_tokenizer(source: str) -> Any:
    """The tokenizer of a backbone. Raises UserError where no token can end a text."""
    tokenizer = load_tokenizer(source, source)
    if tokenizer.eos_token is None and (tokenizer.cls_token is None or tokenizer.sep_token is None):
        raise UserError(f"{source}: the tokenizer names no end token.\nSet eos_token in its tokenizer_config.json.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    return tokenizer


def read_config(directory: Path) -> MultiHeadRewardConfig:
    """The configuration of a reward model. Raises UserError where the folder is none of this project, or says what can't be."""
    file = directory / "config.json"
    if not file.is_file() or read_json(file).get("model_type") != MultiHeadRewardConfig.model_type:
        raise UserError(f"{directory} is no reward model of this project.\nGive what `moslim reward` wrote.")
    config = MultiHeadRewardConfig.from_pretrained(directory)
    try:
        fits = len(config.schema()) == len(config.head_types()) and bool((config.backbone or {})["model_type"])
    except (UserError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged: its preferences or its backbone can't be read.\nMake the reward model again.") from error
    if not fits:
        raise UserError(f"{file} is damaged: it names other heads than preferences.\nMake the reward model again.")
    return config


def reward_tokenizer(directory: Path, config: MultiHeadRewardConfig) -> Any:
    """The tokenizer of a reward model. Raises UserError where it is gone, damaged or another model's."""
    tokenizer = load_tokenizer(str(directory), str(directory))
    with torch.device("meta"):
        require_vocabulary(tokenizer, MultiHeadRewardModel(config).backbones[0], str(directory))
    return tokenizer


def joined(alone: list[MultiHeadRewardModel]) -> MultiHeadRewardModel:
    """One model with the backbones and heads of models that have one preference each, all of one kind."""
    config = cast(MultiHeadRewardConfig, copy.deepcopy(alone[0].config))
    config.shared = False
    config.preferences = [p for m in alone for p in m.config.preferences]
    config.heads = [kind for m in alone for kind in m.config.head_types()]
    whole = MultiHeadRewardModel(config)
    whole.backbones = nn.ModuleList(m.backbones[0] for m in alone)
    whole.heads = nn.ModuleList(m.heads[0] for m in alone)
    return whole


def pooling_of(source: str, config: Any) -> str:
    """Pooling by family; a sentence-transformers folder says itself that it was trained to be averaged."""
    if (Path(source) / "1_Pooling").is_dir():
        return "mean"
    if config.model_type in CLS_FAMILIES:
        return "cls"
    return "last" if getattr(config.get_text_config(), "use_cache", False) else "mean"


def encode(tokenizer: Any, questions: list[str], answers: list[str], max_length: int) -> dict[str, list[list[int]]]:
    """Question and answer as one sequence per row: the backbone's own pair format, or plain roles where it has none.

    What they hold is text: a special token that somebody wrote is none. Plain roles begin as the tokenizer begins a text.
    Too long a row loses the start of its question first, then the end of its answer, but keeps a quarter for the question.
    """
    pair = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    if not pair:
        questions = [f"Question: {q}\n\nAnswer:" for q in questions]
        answers = [f" {a}" for a in answers]
    q_ids, a_ids = text_tokens(tokenizer, questions), text_tokens(tokenizer, answers)
    beginning = [] if pair else beginning_tokens(tokenizer)
    room = max_length - (3 if pair else len(beginning) + 1)
    rows, types = [], []
    for q, a in zip(q_ids, a_ids, strict=True):
        a = a[: room - min(len(q), room // 4)]
        q = q[len(q) - min(len(q), room - len(a)) :]
        if pair:
            # The answer first: its end then has the same position whatever the question, so few layers can tell its length.
            ids = [tokenizer.cls_token_id, *a, tokenizer.sep_token_id, *q, tokenizer.sep_token_id]
            types.append([0] * (len(a) + 2) + [1] * (len(q) + 1))
        else:
            ids = [*beginning, *q, *a, tokenizer.eos_token_id]
        rows.append(ids)
    encoded = {"input_ids": rows}
    if types and "token_type_ids" in tokenizer.model_input_names:
        encoded["token_type_ids"] = types
    return encoded


AutoConfig.register(MultiHeadRewardConfig.model_type, MultiHeadRewardConfig)
AutoModel.register(MultiHeadRewardConfig, MultiHeadRewardModel)
