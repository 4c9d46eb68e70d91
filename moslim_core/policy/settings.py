"""The sections about the policy's training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from moslim_core import registry
from moslim_core.errors import UserError
from moslim_core.preferences import Placement
from moslim_core.sampling import LOWEST_TEMPERATURE
from moslim_core.settings_section import NameOf, Section

# Packaged files in tasks/execution/accelerate.
AccelerateProfile = Literal["one-gpu", "ddp", "fsdp"]


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
    imitation: float = Field(
        default=0.0,
        ge=0,
        description="weight of the likelihood of each request's best answer beside the optimiser's loss: answers stay whole",
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
    clip: float = Field(
        default=0.2, gt=0, lt=1, description="clipping range: probability ratios outside 1 ± clip give no gradient (rloo, grpo, ppo)"
    )
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
    update: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="how the adapter is updated; muon: with equal singular values, so that no few directions of a gradient dominate",
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, description="learning rate of the adapter; muon's updates have a fifth of it as their root mean square"
    )
    final_rate: float = Field(
        default=1.0, ge=0, le=1, description="share of the learning rate that is left in the last step, in a straight line from the first"
    )
    average_steps: int = Field(
        default=1, ge=1, description="the policy is the adapter's mean over so many last steps, which has less noise"
    )
    truncation_penalty: float = Field(
        default=0.0,
        ge=0,
        description="reward subtracted from an answer that is cut off, empty or, where rated answers are sentences, without a last "
        "punctuation mark",
    )
    off_topic_penalty: float = Field(
        default=0.0,
        ge=0,
        description="reward subtracted from an answer that a sentence encoder (minilm-l6) finds off its question's topic",
    )
    restatement_penalty: float = Field(
        default=0.0, ge=0, description="reward subtracted from an answer whose words only say its question again (English)"
    )
    cross_talk_penalty: float = Field(
        default=0.0,
        ge=0,
        description="penalty for moving preferences that the request does not name, in rewards per whole range moved",
    )
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
    sft: WarmStartSettings = Field(default_factory=WarmStartSettings, description="what the warm start alone needs")
    grpo: GRPOSettings = Field(default_factory=GRPOSettings, description="what GRPO alone needs")
    ppo: PPOSettings = Field(default_factory=PPOSettings, description="what PPO alone needs")

    @model_validator(mode="after")
    def _fits_optimiser(self) -> PolicySettings:
        if self.credit == "token" and self.max_new_tokens == 1:
            raise ValueError("credit=token, but with max_new_tokens=1 there is one token to credit: set credit=answer")
        if self.credit == "token" and self.imitation:
            raise ValueError(f"imitation={self.imitation} takes the best of whole answers: with credit=token set it to 0")
        if self.cross_talk_penalty and self.rated_answers == 1:
            raise ValueError(
                f"cross_talk_penalty={self.cross_talk_penalty} is measured on drawn answers, but with rated_answers=1 none are drawn: "
                "set it to 0"
            )
        if self.prompts_per_step % self.processes:
            raise ValueError(
                f"a prompt's answers stay in one process, but prompts_per_step={self.prompts_per_step} can't be shared out evenly among "
                f"processes={self.processes}"
            )
        if self.accelerate == "one-gpu" and self.processes > 1:
            raise ValueError(f"accelerate=one-gpu starts one process, but processes={self.processes}: set accelerate=ddp")
        if self.optimiser == "ppo" and self.ppo.kl_target is not None and self.beta == 0:
            raise ValueError(f"ppo.kl_target={self.ppo.kl_target} steers beta by factors, and beta=0 stays 0: give beta more, say 0.02")
        if self.engine == "vllm" and self.vllm_url is None:
            raise ValueError("engine=vllm needs the address of a vLLM server: set vllm_url, such as http://localhost:8000")
        return self


def refuse_sharded(policy: PolicySettings, shared_base: bool) -> None:
    """Raises UserError, naming what to set, where a policy can't be trained with sharded weights.

    `shared_base`: the reward model is an adapter of the policy's base.
    """
    needed = {
        "policy.warm_start=none": policy.warm_start == "none",
        "policy.processes=2 or more": policy.processes > 1,
        "policy.engine=transformers": policy.engine in ("auto", "transformers") and not policy.vllm_url,
        "policy.update=adamw": policy.update == "adamw",
        "a reward model with weights of its own (another reward.backbone, or reward.tuning=full)": not shared_base,
        # Of the first version no part of a weight can be told from another.
        "fsdp_version: 2 in the accelerate configuration": os.environ.get("FSDP_VERSION") != "1",
    }
    missing = [setting for setting, met in needed.items() if not met]
    if missing:
        raise UserError(
            f"policy.accelerate={policy.accelerate} shares the policy's weights out among processes (FSDP).\n"
            f"This needs {'; '.join(missing)}. Or take policy.accelerate=ddp."
        )
