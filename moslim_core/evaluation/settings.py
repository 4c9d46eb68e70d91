"""The section about what is measured, and who says which level an answer has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from moslim_core import registry
from moslim_core.judging.settings import JudgeSettings
from moslim_core.settings_section import NameOf, Section, names


class EvaluationSettings(Section):
    """Controllability on an independent judge and public benchmarks, always beside the starting model under the same instructions."""

    suite: tuple[Annotated[str, NameOf(registry.benchmark)], ...] = Field(
        default=("controllability",), min_length=1, description="what to evaluate: control and fronts, and public benchmarks"
    )
    policy: str | None = Field(
        default=None, description="`moslim evaluate` takes this policy (folder, runs:/..., models:/name@alias) in place of training one"
    )
    data_dir: Path | None = Field(
        default=None, description="folder with the benchmarks' files, each in a folder of its name; default: downloaded where possible"
    )
    judge: Literal["annotators", "reward_model", "openai"] = Field(
        default="annotators",
        description="annotators: the schema's rules; reward_model: a second one, on a disjoint half of the data with another seed; "
        "openai: the language model at evaluation.endpoint",
    )
    second_judge: Literal["annotators", "reward_model", "openai"] | None = Field(
        default=None, description="also judges the answers to requests, to say how far judges agree"
    )
    judge_backbone: str | None = Field(default=None, description="backbone of the judge; default: reward.backbone")
    endpoint: JudgeSettings = Field(
        default_factory=JudgeSettings, description="the language model that judges; without endpoint.model what needs one is not run"
    )
    targets: dict[str, int] = Field(default_factory=dict, description="what benchmark prompts ask for; default: nothing")
    operating_points: int = Field(
        default=5, ge=0, description="points of the front, each a vector of weights, one more than preferences at least; 0: no front"
    )
    together: int = Field(
        default=1, ge=0, description="requests for two preferences at once, and as many for three, of each evaluation prompt; 0: none"
    )
    topic: bool = Field(
        default=False, description="also measure which share of the answers is off its question's topic, by a sentence encoder (minilm-l6)"
    )
    attack_prompts: int = Field(
        default=8, ge=0, description="evaluation prompts that are also asked with a contradicting wish and a forged instruction; 0: none"
    )
    limit: int = Field(default=64, ge=2, description="evaluation prompts, each under every request, and items of each benchmark")
    temperature: float = Field(default=0.7, ge=0, description="sampling temperature; 0 is greedy")
    max_new_tokens: int | None = Field(default=None, ge=1, description="longest answer to a benchmark, in tokens; default: as trained")
    batch_size: int = Field(default=32, ge=1, description="answers generated at once")
    bootstrap: int = Field(default=2000, ge=100, description="bootstrap resamples by prompt for 95 % intervals, from 8 prompts on")

    _split = field_validator("suite", mode="before")(names)

    @property
    def judges(self) -> tuple[str, ...]:
        """Who judges, the first one's verdicts being those that count."""
        return tuple(filter(None, (self.judge, self.second_judge)))

    @model_validator(mode="after")
    def _complete(self) -> EvaluationSettings:
        if "openai" in self.judges and not self.endpoint.model:
            raise ValueError("a language model judges: give evaluation.endpoint.model and evaluation.endpoint.base_url too")
        if self.judge == self.second_judge:
            raise ValueError(f"second_judge={self.second_judge} is the first one: name another, or none")
        return self
