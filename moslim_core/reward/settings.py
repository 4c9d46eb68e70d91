"""The sections about the reward model, and about what becomes of its probabilities."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moslim_core import registry
from moslim_core.settings_section import LARGEST_SEED, NameOf, Section


class RewardSettings(Section):
    """The multi-head reward model."""

    backbone: str = Field(default="minilm-l6", description="hub id, local directory, or a packaged model (minilm-l6)")
    layers: int | None = Field(default=None, ge=1, description="keep only the first n layers of the backbone; default: all")
    head: Annotated[str, NameOf(registry.head)] = Field(
        default="classification", description="what each preference's head learns; every type gives class probabilities"
    )
    applicability: bool = Field(default=False, description="also learn which preferences an answer is about (preference accuracy)")
    shared: bool = Field(default=True, description="one backbone for all heads; off: a model of its own per preference, for comparison")
    epochs: float = Field(default=2.0, gt=0, description="passes over the rated rows")
    learning_rate: float = Field(default=1.5e-4, gt=0, description="peak learning rate of the backbone's last layer (AdamW, linear decay)")
    head_learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate of the heads, which start from nothing")
    layer_decay: float = Field(default=0.85, gt=0, le=1, description="a backbone layer's learning rate, as a multiple of the next one's")
    ranking_weight: float = Field(
        default=0.3,
        ge=0,
        description="weight of the loss that puts answers of high levels above those of low ones, beside cross-entropy's 1",
    )
    batch_size: int = Field(default=32, ge=1, description="rows per optimiser step")
    max_length: int = Field(default=192, ge=16, description="tokens of question and answer together; longer rows are cut")
    class_weights: Literal["none", "balanced", "source_balanced"] = Field(
        default="none",
        description="balanced: inverse to the frequency of a level; source_balanced: to the square root of its frequency within a source",
    )
    tuning: Literal["full", "lora", "frozen"] = Field(
        default="full", description="what learns beside the heads: the whole backbone, a LoRA adapter, or nothing"
    )
    lora_rank: int = Field(default=16, ge=1, description="rank of the LoRA adapter on all linear maps of the backbone's layers")
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again on the way back: a fifth of their memory, a third more time"
    )
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED, description="seed of this stage; default: the run's seed")

    @property
    def adapter_of(self) -> str | None:
        """The model that the reward model is an adapter of; None where it has weights of its own."""
        return self.backbone if self.tuning == "lora" and self.shared and self.layers is None else None

    @model_validator(mode="after")
    def _applicability_needs_all_rows(self) -> RewardSettings:
        if self.applicability and not self.shared:
            raise ValueError("applicability is learnt by a shared backbone: set shared=true or applicability=false")
        return self


class MappingSettings(Section):
    """Class probabilities and targets -> one scalar reward."""

    utility: Annotated[str, NameOf(registry.utility)] = Field(default="ordinal", description="how well an answer fits one target")
    standardisation: Literal["none", "batch", "running", "reference"] = Field(
        default="batch", description="where mean and standard deviation of a utility come from"
    )
    aggregation: Literal["active_mean", "sum", "paper"] = Field(default="active_mean", description="how preferences add up")
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, description="preference -> weight >= 0; default 1")
    guard_enough: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of a guard's utility what is enough: an answer earns nothing by more, so that a guard does not eat the rest",
    )

    @model_validator(mode="after")
    def _enough_of_what(self) -> MappingSettings:
        if self.guard_enough < 1 and self.utility in ("log_probability", "within_sample_z"):
            raise ValueError(f"guard_enough={self.guard_enough} bounds a utility from 0 to 1, and {self.utility} is none: use ordinal")
        return self
