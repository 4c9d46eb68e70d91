"""What a report shows, as plain data: the page and the figures are pure functions of one `ReportContent`."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field, model_validator

from moslim_core.evaluation.attack import UnderAttack
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.evaluation.controllability import Controllability
from moslim_core.evaluation.fronts import Front
from moslim_core.evaluation.joint_requests import Together
from moslim_core.judging.endpoint import Usage
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.metrics import HeadMetrics, PairAccuracy
from moslim_core.statistics.agreement import JudgeAgreement

Measured = TypeVar("Measured")


class Both(BaseModel, Generic[Measured]):
    """The same of the starting model and of the policy."""

    before: Measured
    after: Measured


class SampleRow(BaseModel):
    """Both systems' answers to one prompt where `level` was requested, with the levels that the judge gave (null: none)."""

    level: int
    before: str
    after: str
    before_obtained: float | None
    after_obtained: float | None


class Sample(BaseModel):
    """One prompt under requests of several levels of one preference."""

    prompt: str
    preference: str
    rows: list[SampleRow]


class ReportContent(BaseModel):
    """One run. `before`: the starting model under the same instructions (prompt only); `after`: the trained policy."""

    title: str
    created: str = Field(description="ISO time; given, so that the same content always makes the same page")
    preferences: PreferenceSchema
    trained: str = Field(description="how the policy was trained, in a few words")
    before: Controllability
    after: Controllability
    judge: str = Field(description="how obtained levels were measured, one sentence")
    training: list[dict[str, float]] = Field(
        description="one dict a step: `step` and any of reward, kl, kl_sequence, entropy, completion_tokens, "
        "truncated, off_topic, restated, zero_variance, utility/<preference>, judged/<preference>, seconds/<phase>"
    )
    reward_heads: dict[str, HeadMetrics]
    reward_choices: dict[str, PairAccuracy] = Field(default={}, description="preference -> how often its head prefers the chosen answer")
    samples: list[Sample]
    fronts: Both[Front] | None = Field(default=None, description="between the steered preferences, at the same operating points")
    together: Both[Together] | None = Field(default=None, description="control where a request names several preferences")
    attack: Both[UnderAttack] | None = Field(default=None, description="control where the user's words contradict what is asked for")
    benchmarks: dict[str, Both[Run]] = {}
    agreement: dict[str, Both[JudgeAgreement]] = Field(default={}, description="preference -> how far `second_judge` agrees")
    second_judge: str = Field(default="", description="who judged the same answers too")
    data_card: dict[str, Any] = Field(
        description="rows {split: n}, sources {name: n}, labels {preference: {labelled, levels {level: n}}}, dropped {reason: n}"
    )
    judge_usage: Usage | None = Field(default=None, description="what asking a language model for verdicts took")
    seconds: dict[str, float] = Field(description="stage -> seconds; 0 for a stage that was reused")
    peak_memory_gb: float | None
    settings: dict[str, Any]
    notes: list[str]

    @model_validator(mode="after")
    def _fits_schema(self) -> ReportContent:
        names = set(self.preferences.names)
        for what, given in (("before", self.before.preferences), ("after", self.after.preferences)):
            if set(given) != names:
                raise ValueError(f"{what} measures {sorted(given)}, but the schema has {sorted(names)}")
        if self.fronts and [p.weights for p in self.fronts.before.points] != [p.weights for p in self.fronts.after.points]:
            raise ValueError("the two fronts are not of the same operating points")
        under = self.attack.after.preferences if self.attack else ()
        if unknown := {*self.agreement, *self.reward_choices, *under, *(self.fronts.after.reference if self.fronts else ())} - names:
            raise ValueError(f"the schema does not have {sorted(unknown)}")
        for name, head in self.reward_heads.items():
            if name not in names or len(head.confusion) != self.preferences[name].k:
                raise ValueError(f"the reward head {name!r} does not fit the schema")
        for sample in self.samples:
            if sample.preference not in names:
                raise ValueError(f"a sample is about {sample.preference!r}, which the schema does not have")
            k = self.preferences[sample.preference].k
            if any(not 1 <= row.level <= k for row in sample.rows):
                raise ValueError(f"a sample of {sample.preference!r} has a level outside 1..{k}")
        return self
