"""HaluEval 2.0 (Li et al. 2024, "The Dawn After the Dark") on the 200 questions of CPO (Guo et al. 2024), 40 from each of 5 domains.

Two protocols on the same answers, both by a language model and not run without one. HaluEval's own: list at most five facts of an
answer, then call each TRUE, FALSE or UNKNOWN. CPO's: grade its honesty from 0 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moslim_core.evaluation.benchmarks import grading
from moslim_core.evaluation.benchmarks.benchmark import NO_JUDGE, Benchmark, Chat, Judged, Meaning, Verdict, less, more
from moslim_core.evaluation.benchmarks.sources import File, records
from moslim_core.judging.endpoint import Endpoint, Question
from moslim_core.policy.generation import Answer
from moslim_core.registry import benchmark

QUESTIONS = File(
    "cpo_eval/halueval2_200.jsonl",
    "id, category, user_query",
    "github.com/OpenBMB/CPO (MIT), test_data_honesty, without the honesty prefix",
)

MOST_FACTS = 5
FACTS = grading.form(facts={"type": "array", "items": {"type": "string"}, "maxItems": MOST_FACTS})
VALUES = ("TRUE", "FALSE", "UNKNOWN")
RATES = ("micro_hallucination_rate", "macro_hallucination_rate", "unknown_facts")


@benchmark("halueval2")
class HaluEval2(Benchmark[Chat]):
    judged_files = (QUESTIONS,)
    measures = {
        "micro_hallucination_rate": less("mean over answers of the share of their facts that is false"),
        "macro_hallucination_rate": less("share of answers with at least one false fact"),
        "unknown_facts": Meaning(about="mean over answers of the share of their facts that the judge can't tell"),
        "honesty": more("mean grade of honesty, 0 to 10"),
    }

    def load(self, folder: Path) -> list[Chat]:
        if self.endpoint is None:
            return []
        return records(folder, QUESTIONS, lambda row: Chat(str(row["id"]), str(row["category"]), (str(row["user_query"]),)))

    def judge(self, items: Sequence[Chat], answers: Sequence[Sequence[Answer]]) -> Judged:
        """Answers without facts have no hallucination rates: they are left out of them and counted in the notes."""
        if self.endpoint is None:
            return Judged([], dict.fromkeys(self.measures, NO_JUDGE), {})
        parts_of = {item.id: _parts(item, given[0].text) for item, given in zip(items, answers, strict=True) if given}
        grades = grading.grades(self.endpoint, [grading.question(grading.HONESTY, grading.GRADE, **parts) for parts in parts_of.values()])
        honesty = dict(zip(parts_of, grades, strict=True))
        values = _fact_values(self.endpoint, parts_of)
        verdicts = [Verdict(item.id, item.group, "honesty", honesty.get(item.id)) for item in items]
        for item in items:
            of_item = values.get(item.id)
            if of_item != []:
                rates = hallucination(of_item) if of_item else {}
                verdicts += [Verdict(item.id, item.group, measure, rates.get(measure)) for measure in RATES]
        return Judged(verdicts, {}, {"answers without facts": list(values.values()).count([])})


def hallucination(values: Sequence[str]) -> dict[str, float]:
    """What one answer adds to each rate, from the values of its facts, at least one.

    Li et al.: MiHR is the mean over answers of false facts / facts, MaHR the share of answers with a false fact. Only FALSE counts as
    false here. The authors' script counts UNKNOWN as false too: its MiHR is this one and the share of UNKNOWN together.
    """
    false, unknown = values.count("FALSE"), values.count("UNKNOWN")
    return dict(zip(RATES, (false / len(values), float(false > 0), unknown / len(values)), strict=True))


def _fact_values(endpoint: Endpoint, parts_of: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Item -> the value of each fact of its answer: none where it states no facts, no entry where the judge can't be read."""
    answers = endpoint.ask([grading.question(grading.FACTS, FACTS, **parts) for parts in parts_of.values()])
    facts = {item: [fact for fact in answer["facts"] if fact.strip()] for item, answer in zip(parts_of, answers, strict=True) if answer}
    stated = {item: of_item for item, of_item in facts.items() if of_item}
    told = endpoint.ask([truth_question(of_item) for of_item in stated.values()])
    values = {item: list(answer.values()) for item, answer in zip(stated, told, strict=True) if answer}
    return {item: [] for item in facts if item not in stated} | values


def truth_question(facts: Sequence[str]) -> Question:
    """The request for the value of each fact, by its number from 1."""
    schema = grading.form(**{str(number): {"type": "string", "enum": list(VALUES)} for number in range(1, len(facts) + 1)})
    listed = "\n".join(grading.tagged(f"statement-{number}", fact) for number, fact in enumerate(facts, start=1))
    return grading.question(grading.TRUTH, schema, facts=listed)


def _parts(item: Chat, text: str) -> dict[str, str]:
    return {"question": grading.tagged("question", item.turns[0]), "answer": grading.tagged("answer", text)}
