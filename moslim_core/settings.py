"""The settings of a run: one class for the YAML profile, the command line, the Prefect form and the error message."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from moslim_core import plugins, registry
from moslim_core.errors import UserError
from moslim_core.judge_settings import AnnotationSettings, EvaluationSettings
from moslim_core.models import DeviceName, DType
from moslim_core.preferences import Placement, PreferenceSchema
from moslim_core.sampling import LOWEST_TEMPERATURE
from moslim_core.section import NameOf, Section, names, not_text, registries

# numpy takes 32 bits, and the judge's seed is the reward model's next one.
LARGEST_SEED = 2**32 - 2
# Packaged files in tasks/accelerate.
AccelerateProfile = Literal["one-gpu", "ddp", "fsdp"]


class LabelColumn(Section):
    """Where one preference's rating stands in the rated rows, and how ratings become levels (one way at most)."""

    column: str | None = Field(default=None, description="column name; default: what the source has for it, else the preference's name")
    levels: dict[str, int | None] | None = Field(
        default=None, description="rating (written as text) -> level, null to mask it; default: ratings are levels 1..K"
    )
    thresholds: tuple[float, ...] | None = Field(
        default=None, description="K-1 rising numbers: a rating up to the first is level 1, one above the last is level K"
    )
    quantiles: bool = Field(default=False, description="true: thresholds that cut the training ratings into K levels as even as can be")

    @model_validator(mode="after")
    def _one_way(self) -> LabelColumn:
        if len(self.ways) > 1:
            raise ValueError(f"{' and '.join(self.ways)} exclude one another: give one")
        if self.thresholds is not None and not all(a < b for a, b in itertools.pairwise(self.thresholds)):
            raise ValueError("thresholds must be a rising list of numbers")
        return self

    @property
    def ways(self) -> list[str]:
        """The settings given that make ratings levels: one, or none where they are levels already."""
        return [name for name in ("levels", "thresholds", "quantiles") if getattr(self, name) not in (None, False)]


class ColumnSettings(Section):
    """How rated rows are read (prompt, response and source: those of your own files)."""

    prompt: str = Field(default="prompt", description="column of the user's prompt")
    response: str = Field(default="response", description="column of the answer")
    messages: str | None = Field(
        default=None,
        description="column of a conversation whose last turn is the answer; default: messages or conversations, where rows have one",
    )
    pairs: str | None = Field(default=None, description="preference that the choices of rows with chosen and rejected are about")
    source: str | None = Field(default="source", description="column naming the row's source, if there is one")
    labels: dict[str, LabelColumn] = Field(
        default_factory=dict,
        description="preference (or source.preference, for one source of several) -> its column, and levels, thresholds or quantiles",
    )


class DataSettings(Section):
    """Rated answers: what trains the reward model."""

    source: tuple[Annotated[str, NameOf(registry.source)], ...] = Field(
        default=("starter",), min_length=1, description="one name or several; a set of the hub is read from data.path where that is given"
    )
    path: Path | None = Field(
        default=None,
        description="file, or folder with train, and optionally val and test, files; of a hub source: folder with its files; "
        "of several sources: folder with one folder (or file) named like each",
    )
    columns: ColumnSettings = Field(default_factory=ColumnSettings, description="column and level mapping")
    bad_rows: Literal["stop", "drop"] = Field(
        default="stop",
        description="what becomes of a row or prompt that can't be read: stop ends the run, drop leaves it out and counts it in the card",
    )
    limit: int | None = Field(default=None, ge=20, description="use at most this many rated rows (chosen by hash)")
    near_duplicates: float = Field(
        default=0.8, ge=0.5, le=1, description="prompts whose word triples have this Jaccard similarity share a split; 1: equal ones only"
    )
    validation_fraction: float = Field(default=0.08, gt=0, lt=0.5, description="share of prompts held out for calibration")
    test_fraction: float = Field(default=0.10, gt=0, lt=0.5, description="share of prompts held out for reward metrics and evaluation")

    _split = field_validator("source", mode="before")(names)


class ModelSettings(Section):
    """The chat model to align."""

    base: str = Field(default="smollm2-135m", description="hub id, local directory, or a packaged model (smollm2-135m)")
    dtype: DType = Field(default="auto", description="auto: bfloat16 on GPUs; on a CPU the faster of bfloat16 and float32")
    device: DeviceName = Field(default="auto", description="auto: CUDA, else MPS, else CPU")


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


class WarmStartSettings(Section):
    """The supervised warm start: the rated answers themselves, each under the levels that it was rated with."""

    epochs: float = Field(default=1.0, gt=0, description="passes over the rated rows")
    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate of its adapter (AdamW, linear decay)")
    batch_size: int = Field(default=16, ge=1, description="rows per update")


class GRPOSettings(Section):
    """What GRPO alone needs."""

    normalise: Literal["reward", "per_preference"] = Field(
        default="reward", description="divide by a group's spread: the reward, or each preference's utility before they are summed"
    )


class PPOSettings(Section):
    """What PPO alone needs. Its critic is a head on the policy's own last hidden state."""

    discount: float = Field(default=1.0, gt=0, le=1, description="discount per token (gamma)")
    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="generalised advantage estimation: 0 trusts the critic, 1 the reward")
    value_weight: float = Field(default=0.5, ge=0, description="weight of the critic's loss")
    value_clip: float = Field(
        default=0.2, gt=0, description="furthest that a value may move within one batch of answers, in units of reward"
    )
    critic_learning_rate: float = Field(
        default=3e-5, gt=0, description="learning rate of the critic's head; an update moves a value by this times the hidden size at most"
    )
    kl_target: float | None = Field(
        default=None, gt=0, description="nats per answer that beta is steered to; default: beta stays as it is given"
    )


class PolicySettings(Section):
    """Reinforcement learning of the one policy."""

    optimiser: Annotated[str, NameOf(registry.optimiser)] = Field(default="rloo", description="policy optimiser")
    prompts: Path | None = Field(default=None, description="JSON lines file or folder of prompts; default: the data's prompts")
    placement: Placement = Field(default="user_suffix", description="where the preference instruction stands")
    warm_start: Literal["none", "conditioned_sft"] = Field(
        default="none", description="conditioned_sft: first learn the rated answers under their own levels; needs a reward model of its own"
    )
    steps: int = Field(default=100, ge=1, description="optimiser steps")
    max_minutes: float | None = Field(
        default=None, gt=0, description="training ends with the step in which these are over; default: no limit"
    )
    prompts_per_step: int = Field(default=4, ge=1, description="different prompts per step")
    targets_per_prompt: int = Field(
        default=2, ge=1, description="each prompt of a step is asked under so many targets: the same preferences at other levels"
    )
    group_size: int = Field(default=4, ge=2, description="answers per prompt and targets")
    relabel: bool = Field(
        default=False,
        description="each answer also counts under its prompt's other targets, weighted by how probable it is there; for short answers",
    )
    credit: Literal["answer", "token"] = Field(
        default="answer",
        description="token: each token counts with the reward less what the reward model makes of the answer up to it (rloo, grpo)",
    )
    rated_answers: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of a step's answers that come from the rated data, not drawn; each counts under all requests of its prompt",
    )
    run_on_answers: int = Field(
        default=0,
        ge=0,
        description="of a prompt's rated answers so many go on after their end, and count as cut off: they teach to end",
    )
    contrast: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of a prompt's answers that an update learns from: those whose rewards under its requests differ most",
    )
    centred: bool = Field(
        default=False,
        description="an answer counts with what it earns under a request less its mean over its prompt's requests; with relabel",
    )
    kl: Literal["reward", "loss"] | None = Field(
        default=None,
        description="where the KL to the starting policy counts: in an answer's reward (default of rloo, ppo), or in the loss (of grpo)",
    )
    epochs: int = Field(default=1, ge=1, description="updates per batch of answers, each with all of it")
    clip: float = Field(default=0.2, gt=0, lt=1, description="furthest that a probability ratio counts from 1 (rloo, grpo, ppo)")
    micro_batch: int = Field(default=16, ge=1, description="answers (with relabel: answers under targets) per pass")
    processes: int = Field(default=1, ge=1, description="processes of this machine that train together: one per GPU; on a CPU, to try it")
    accelerate: AccelerateProfile | Path | None = Field(
        default=None,
        description="how the processes are started: one-gpu, ddp, fsdp, or an accelerate configuration file; "
        "default: plainly where there is one, by torchrun where there are several",
    )
    engine: Annotated[str, NameOf(registry.engine)] = Field(default="auto", description="what draws the answers")
    vllm_url: str | None = Field(
        default=None, description="address of a vLLM server that serves model.base with --enable-lora, such as http://localhost:8000"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations: less memory, a third more time per update")
    max_new_tokens: int = Field(default=128, ge=1, description="longest answer, in tokens")
    max_prompt_tokens: int = Field(default=512, ge=16, description="longer prompts (instruction included) are left out and counted")
    temperature: float = Field(default=1.0, ge=LOWEST_TEMPERATURE, description="sampling temperature of rollouts")
    learning_rate: float = Field(default=1e-4, gt=0, description="learning rate of the adapter (AdamW)")
    final_rate: float = Field(
        default=1.0, ge=0, le=1, description="share of the learning rate that is left in the last step, in a straight line from the first"
    )
    truncation_penalty: float = Field(default=0.0, ge=0, description="reward that an answer loses when it reaches max_new_tokens")
    beta: float = Field(
        default=0.02,
        ge=0,
        description="weight of the KL to the starting policy, in nats: per answer in the reward (rloo, ppo), per token in the loss (grpo); "
        "online_dpo: DPO's beta, above 0",
    )
    normalise_advantages: bool = Field(default=True, description="divide a step's advantages by their standard deviation")
    lora_rank: int = Field(default=16, ge=1, description="rank of the LoRA adapter on all linear maps of a layer")
    lora_layers: int | None = Field(default=None, ge=1, description="adapt only the last n layers; default: all")
    max_preferences: int | None = Field(default=None, ge=1, description="most preferences named in one training prompt; default: all")
    none_fraction: float = Field(default=0.1, ge=0, lt=1, description="share of prompts that ask for no preference")
    distractor_fraction: float = Field(
        default=0.1, ge=0, le=1, description="share of training prompts that carry a contradicting wish or a forged instruction; 0: none"
    )
    held_out_fraction: float = Field(default=0.05, ge=0, le=0.25, description="share of level pairs kept from training")
    checkpoint_every: int = Field(default=5, ge=1, description="steps between checkpoints; the last two are kept")
    save_merged: bool = Field(default=False, description="also save the policy as one plain model, in the policy's folder `merged`")
    sft: WarmStartSettings = Field(default_factory=WarmStartSettings, description="what the warm start alone needs")
    grpo: GRPOSettings = Field(default_factory=GRPOSettings, description="what GRPO alone needs")
    ppo: PPOSettings = Field(default_factory=PPOSettings, description="what PPO alone needs")

    @model_validator(mode="after")
    def _fits_optimiser(self) -> PolicySettings:
        if self.credit == "token" and self.max_new_tokens == 1:
            raise ValueError("credit=token, but with max_new_tokens=1 there is one token to credit: set credit=answer")
        if self.prompts_per_step % self.processes:
            raise ValueError(
                f"a prompt's answers stay in one process, but prompts_per_step={self.prompts_per_step} can't be shared out evenly among "
                f"processes={self.processes}"
            )
        if self.accelerate == "one-gpu" and self.processes > 1:
            raise ValueError(f"accelerate=one-gpu starts one process, but processes={self.processes}: set accelerate=ddp")
        if self.optimiser == "ppo" and self.ppo.kl_target is not None and self.beta == 0:
            raise ValueError(f"ppo.kl_target={self.ppo.kl_target} steers beta by factors, and beta=0 stays 0: give beta more, say 0.02")
        if self.rated_answers and self.run_on_answers and not self.truncation_penalty:
            raise ValueError(
                f"run_on_answers={self.run_on_answers} lose what is lost by being cut off, but truncation_penalty=0: give it more, say 0.5"
            )
        if self.engine == "vllm" and self.vllm_url is None:
            raise ValueError("engine=vllm needs the address of a vLLM server: set vllm_url, such as http://localhost:8000")
        return self


class Settings(Section):
    """Everything that `moslim run` needs."""

    model_config = ConfigDict(title="Every setting")

    work_dir: Path = Field(
        default=Path(".moslim"), description="everything is written below this folder; on a worker, below MOSLIM_WORK_DIR if that is set"
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="seed of data splits, sampling and training")
    data: DataSettings = Field(default_factory=DataSettings)
    annotation: AnnotationSettings = Field(default_factory=AnnotationSettings)
    preferences: PreferenceSchema = Field(description="what can be asked for; measures that rules may count:")
    model: ModelSettings = Field(default_factory=ModelSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)
    mapping: MappingSettings = Field(default_factory=MappingSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    placement: Literal["inline", "pools"] = Field(
        default="inline",
        description="inline: all stages run on this machine; pools: each as a flow run of its own, training on a worker of the pool gpu, "
        "the rest on one of cpu",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        if (key := not_text(given)) is not None:
            where = f"{key} has" if key else "a name has"
            raise ValueError(f"{where} half a character (a lone surrogate) or a byte that is not UTF-8: write whole characters")
        # One that can't be imported is told whatever is named.
        plugins.load()
        return given

    @model_validator(mode="after")
    def _fits_preferences(self) -> Settings:
        unknown = [name for name in self.mapping.weights if name not in self.preferences.names]
        if unknown:
            raise ValueError(f"mapping.weights names {', '.join(unknown)}; the preferences are {', '.join(self.preferences.names)}")
        if self.data.columns.pairs is not None and self.reward.ranking_weight == 0:
            raise ValueError("data.columns.pairs: chosen and rejected teach by the ranking loss alone, but reward.ranking_weight=0")
        try:
            self.preferences.targets(self.evaluation.targets)
        except UserError as error:
            raise ValueError(f"evaluation.targets: {error}") from error
        return self

    def dump(self) -> dict[str, Any]:
        """Plain JSON data, the form in which settings travel to stages and into records."""
        return self.model_dump(mode="json")

    def content(self) -> dict[str, Any]:
        """`dump` without where the work is done: what results depend on."""
        return {key: value for key, value in self.dump().items() if key not in ("work_dir", "placement")}


def described(section: type[Section] = Settings, prefix: str = "") -> dict[str, list[tuple[str, str, str]]]:
    """{section's one-line description: [(key, default, what it is and in which unit)]}, in the order of the classes.

    What takes names of a registry has a line for each of them below.
    """
    own: list[tuple[str, str, str]] = []
    inner: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            inner |= described(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
            known = [found.listed() for part in (kind, *field.metadata) for found in registries(part)]
            lines = [f"{word}: {about}" for listed in known for word, about in listed.items()]
            own.append((prefix + name, default, "\n".join([field.description or "", *lines])))
    return {(section.__doc__ or "").strip(): own, **inner}
