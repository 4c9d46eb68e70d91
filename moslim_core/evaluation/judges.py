"""Who says which level an answer has: rules, an independent reward model, or a language model. One protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from moslim_core.data.annotators import annotate_all
from moslim_core.data.rows import Row
from moslim_core.judging.annotator import JudgeAnnotator
from moslim_core.judging.endpoint import Endpoint
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.metrics import expected_level

if TYPE_CHECKING:
    from moslim_core.reward.scorer import RewardScorer


class Judge(Protocol):
    """`describe` is a sentence for the report; `levels` gives those of each answer, without what could not be told."""

    describe: str

    def levels(self, questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        """Of n answers: {preference: level in [1, K]} each, without what could not be told."""


class AnnotatorJudge:
    """The schema's rules: exact, for preferences that have one."""

    def __init__(self, schema: PreferenceSchema) -> None:
        self.schema = schema
        rules = ", ".join(f"{p.name} by {p.annotator.measure}" for p in schema.preferences if p.annotator)
        self.describe = f"Obtained levels are measured exactly by rules: {rules}."

    def levels(self, questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        return [{n: float(v) for n, v in annotate_all(a, self.schema).items()} if a else {} for a in answers]


class RewardModelJudge:
    """The expected level of a reward model that is not the training one."""

    def __init__(self, scorer: RewardScorer) -> None:
        self.scorer = scorer
        self.describe = (
            "Obtained levels are expected levels of a second reward model, trained on prompts that the training reward model "
            "never saw, with another seed."
        )

    def levels(self, questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        expected = {n: expected_level(p) for n, p in self.scorer(questions, answers).items()}
        return [{n: float(v[i]) for n, v in expected.items()} for i in range(len(answers))]


class EndpointJudge:
    """A language model behind an OpenAI-compatible endpoint, asked as when it labels rows. What it can't tell is missing."""

    def __init__(self, schema: PreferenceSchema, endpoint: Endpoint) -> None:
        self.annotator = JudgeAnnotator(schema, endpoint)
        self.describe = f"Obtained levels are said by the language model {endpoint.settings.model}."

    def levels(self, questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        rows = [Row([{"role": "user", "content": q}], a, {}, "") for q, a in zip(questions, answers, strict=True)]
        verdicts = self.annotator.verdicts(rows, [self.annotator.schema.names] * len(rows))
        return [{name: float(level) for name, level in verdict.items() if level is not None} for verdict in verdicts]
