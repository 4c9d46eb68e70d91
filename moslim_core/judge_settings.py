"""The sections about who says which level an answer has: in evaluation, and where rated rows have no label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from moslim_core import registry
from moslim_core.section import NameOf, Section, names


class JudgeSettings(Section):
    """A language model that says levels, behind an OpenAI-compatible endpoint (its key: MOSLIM_JUDGE_API_KEY or OPENAI_API_KEY)."""

    base_url: str = Field(default="http://localhost:8000/v1", description="address of the endpoint; a local vLLM or Ollama serves one")
    model: str | None = Field(default=None, description="name under which the endpoint serves the model")
    concurrency: int = Field(default=8, ge=1, le=512, description="questions asked at the same time")
    timeout_seconds: float = Field(default=60.0, gt=0, description="longest wait for one answer")
    attempts: int = Field(default=6, ge=1, le=20, description="how often a question is asked before it counts as unanswered")
    max_tokens: int | None = Field(default=512, ge=1, description="longest answer, in tokens; null: not sent, for models that refuse it")
    temperature: float | None = Field(default=0.0, ge=0, description="sampling temperature; null: not sent, for models that refuse it")
    input_price: float = Field(default=0.0, ge=0, description="price of a million input tokens, in the currency of your bill")
    output_price: float = Field(default=0.0, ge=0, description="price of a million output tokens")

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        # Reading the port checks it.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.username or parts.query:
            raise ValueError("write http://HOST:PORT/v1 or https://HOST/v1, without a key in it")
        return value


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


class AnnotationSettings(Section):
    """Labels for what the rated rows leave unlabelled."""

    fill: tuple[Literal["rules", "reward_model", "judge"], ...] = Field(
        default=(), description="who fills in missing labels, in this order: the schema's rules, a reward model, a language model"
    )
    reward_model: Path | None = Field(default=None, description="folder of the reward model that fills in labels")
    min_probability: float = Field(default=0.0, ge=0, le=1, description="the reward model says no level that is less probable than this")
    judge: JudgeSettings = Field(default_factory=JudgeSettings, description="the language model that fills in labels")
    agreement_sample: int = Field(default=200, ge=0, description="rows on which those who say levels are compared; 0: none")

    _split = field_validator("fill", mode="before")(names)

    @model_validator(mode="after")
    def _complete(self) -> AnnotationSettings:
        if len(set(self.fill)) < len(self.fill):
            raise ValueError("fill names an annotator twice")
        for name, key, given in (("reward_model", "reward_model", self.reward_model), ("judge", "judge.model", self.judge.model)):
            if name in self.fill and not given:
                raise ValueError(f"fill names {name}: give annotation.{key} too")
        return self
