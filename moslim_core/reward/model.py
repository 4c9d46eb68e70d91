"""The multi-head reward model: one backbone, one classifier per preference (docs/method.md section 2).

It reads the plain question and the answer, never the instruction that the policy sees.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema, text_tokens
from moslim_core.preferences.tokens import beginning_tokens
from moslim_core.reward.calibration import calibrated
from moslim_core.reward.heads import HEADS, Head, HeadType

# Key of the optional head that tells which preferences an answer is about; no preference can have this name.
APPLICABILITY = "(applicability)"

# Folder beside the model with the LoRA adapter that the merged weights hold.
ADAPTER = "adapter"

# Families whose first token is trained to stand for the text; other encoders are averaged, decoders give their last token.
CLS_FAMILIES = ("bert", "roberta", "deberta", "deberta-v2", "electra", "modernbert", "xlm-roberta")


class MultiHeadRewardConfig(PretrainedConfig):
    """The backbone's configuration, the preference schema, the pooling, and per head a type and a calibration.

    `shared`: one backbone for all heads; off, one of the same kind for each (for comparison). `adapter_of`: the model whose weights
    the backbone has but for the adapter that lies beside it, if that is how it was trained.
    """

    model_type = "moslim_multi_head_reward"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        preferences: list[dict[str, Any]] | None = None,
        pooling: str = "mean",
        max_tokens: int = 192,
        heads: list[HeadType] | None = None,
        applicability: bool = False,
        scales: list[float] | None = None,
        shifts: list[list[float]] | None = None,
        shared: bool = True,
        adapter_of: str | None = None,
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
        return PreferenceSchema.model_validate(self.preferences)

    def head_types(self) -> list[HeadType]:
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
        schema = config.schema()
        count = 1 if config.shared else len(schema)
        self.backbones = nn.ModuleList(AutoModel.from_config(backbone_config, **options) for _ in range(count))
        self.heads = nn.ModuleList(
            HEADS[kind](backbone_config.hidden_size, p.k) for kind, p in zip(config.head_types(), schema.preferences, strict=True)
        )
        self.names = schema.names
        self.applicability = nn.Linear(backbone_config.hidden_size, len(schema)) if config.applicability else None
        self.post_init()

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
    head: HeadType = "classification",
    applicability: bool = False,
) -> tuple[MultiHeadRewardModel, Any]:
    """(new model on a pretrained backbone, its tokenizer). `layers` keeps the first n. Raises UserError if there are fewer."""
    backbone = models.from_pretrained(AutoModel, source, source, dtype=torch.float32, use_safetensors=True)
    config = backbone.config
    if layers is not None:
        if layers > config.num_hidden_layers:
            raise UserError(
                f"reward.layers={layers}, but the backbone {source} has {config.num_hidden_layers} layers.\n"
                f"Give at most {config.num_hidden_layers}."
            )
        _, stack = models.layer_stack(backbone)
        del stack[layers:]
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    tokenizer = models.from_pretrained(AutoTokenizer, source, source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = getattr(config, "max_position_embeddings", None) or max_length
    model = MultiHeadRewardModel(
        MultiHeadRewardConfig(
            backbone=config.to_dict(),
            preferences=schema.model_dump(mode="json"),
            pooling=pooling_of(source, config),
            max_tokens=min(max_length, limit),
            heads=[head] * len(schema),
            applicability=applicability,
        )
    )
    weights = {k: v for k, v in backbone.state_dict().items() if k in model.backbones[0].state_dict()}
    model.backbones[0].load_state_dict(weights)
    return model, tokenizer


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
    encoder = getattr(config, "is_encoder_decoder", False) or not getattr(config, "use_cache", False)
    return "mean" if encoder else "last"


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
            # The answer first: its end then has the same position whatever was asked, so few layers can tell its length.
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
