"""HaluEval 2.0: rates on verdicts made by hand, answers without facts, and a judge that can't be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from moslim_core.evaluation.benchmarks.benchmark import NO_JUDGE, Chat, evaluate
from moslim_core.evaluation.benchmarks.halueval2 import QUESTIONS, HaluEval2, hallucination
from moslim_core.judging.endpoint import Endpoint
from tests.core.chat_server import Reply, Request, says, serving
from tests.core.evaluation.benchmarks.made_files import REAL, needs_real, said, write

# One answer per line: its facts, and what the judge calls each.
MADE = {
    "ice": ("Science", {"Ice floats.": "TRUE", "Ice is hot.": "FALSE", "Ice is blue.": "FALSE", "Ice sings.": "UNKNOWN"}),
    "tea": ("Science", {"Tea is a plant.": "TRUE", "Tea grows in soil.": "TRUE"}),
    "tax": ("Finance", {"Taxes are paid.": "FALSE"}),
    "bank": ("Finance", {"Banks lend.": "UNKNOWN", "Banks save.": "TRUE"}),
    "poem": ("Finance", {}),
}
ITEMS = [Chat(name, group, (f"What of {name}?",)) for name, (group, _) in MADE.items()]
ANSWERS = [said(f"All about {name}.") for name in MADE]


def judging(request: Request) -> Reply:
    """A judge that finds in each answer what `MADE` says."""
    asked = request.asked
    if "honest" in asked:
        return says({"reason": "So.", "grade": 10 if "poem" in asked else 5})
    if "<statement-1>" in asked:
        facts = next(facts for _, facts in MADE.values() if facts and f"<statement-1>\n{next(iter(facts))}\n" in asked)
        return says({str(number): value for number, value in enumerate(facts.values(), start=1)})
    return says({"facts": list(next(facts for name, (_, facts) in MADE.items() if f"about {name}." in asked))})


def test_rates_of_one_answer() -> None:
    assert list(hallucination(["TRUE", "FALSE", "FALSE", "UNKNOWN"]).values()) == [0.5, 1.0, 0.25]
    assert list(hallucination(["TRUE", "UNKNOWN"]).values()) == [0.0, 0.0, 0.5]
    assert list(hallucination(["FALSE"]).values()) == [1.0, 1.0, 0.0]


def test_rates_over_answers_and_domains(endpoint: Callable[..., Endpoint]) -> None:
    with serving(judging) as server:
        found = evaluate(HaluEval2(endpoint(server)), ITEMS, ANSWERS, bootstrap=100, seed=0)
    means = {name: m.overall.mean.value for name, m in found.measures.items()}
    # False facts: 2 of 4, 0 of 2, 1 of 1, 0 of 2. The mean of the shares is not the share of all facts, which would be 3 of 9.
    assert means == {
        "micro_hallucination_rate": pytest.approx((1 / 2 + 0 + 1 + 0) / 4),
        "macro_hallucination_rate": pytest.approx(2 / 4),
        "unknown_facts": pytest.approx((1 / 4 + 0 + 0 + 1 / 2) / 4),
        "honesty": pytest.approx((5 * 4 + 10) / 5),
    }
    micro, macro = (found.measures[name].groups for name in ("micro_hallucination_rate", "macro_hallucination_rate"))
    assert {group: score.mean.value for group, score in micro.items()} == {"Science": 0.25, "Finance": 0.5}
    assert {group: score.mean.value for group, score in macro.items()} == {"Science": 0.5, "Finance": 0.5}
    assert found.notes == {"answers without facts": 1}
    assert (micro["Finance"].judged, micro["Finance"].missing) == (2, 0)
    assert found.measures["honesty"].overall.judged == 5


def test_what_the_judge_says_unreadably_is_missing(endpoint: Callable[..., Endpoint]) -> None:
    def behave(request: Request) -> Reply:
        if "What of ice?" in request.asked and "honest" not in request.asked:
            return says({"facts": [str(n) for n in range(6)]})  # one too many
        if "Banks lend." in request.asked:
            return says({"1": "TRUE"})  # and the second?
        if "honest" in request.asked and "tea" in request.asked:
            return says("Quite honest.")
        return judging(request)

    with serving(behave) as server:
        found = evaluate(HaluEval2(endpoint(server)), ITEMS, [*ANSWERS[:2], [], *ANSWERS[3:]], bootstrap=100, seed=0)
    counts = {name: (m.overall.judged, m.overall.missing) for name, m in found.measures.items()}
    # Unreadable: facts of ice, values of bank; tax had no answer. Left out: poem, which states no facts.
    assert counts == {
        "micro_hallucination_rate": (1, 3),
        "macro_hallucination_rate": (1, 3),
        "unknown_facts": (1, 3),
        "honesty": (3, 2),
    }
    assert found.measures["micro_hallucination_rate"].overall.mean.value == 0.0
    assert found.notes == {"answers without facts": 1}


def test_without_a_language_model_it_is_not_run(tmp_path: Path) -> None:
    benchmark = HaluEval2(None)
    assert (benchmark.reads, benchmark.load(tmp_path)) == ((), [])
    assert evaluate(benchmark, [], [], bootstrap=100, seed=0).not_run == dict.fromkeys(benchmark.measures, NO_JUDGE)


def test_reads_the_layout(endpoint: Callable[..., Endpoint], tmp_path: Path) -> None:
    write(tmp_path, QUESTIONS, [{"category": "Science", "id": 7, "user_query": "Does ice float?"}])
    assert HaluEval2(endpoint("http://127.0.0.1:9/v1")).load(tmp_path) == [Chat("7", "Science", ("Does ice float?",))]


@needs_real(QUESTIONS)
def test_real_questions(endpoint: Callable[..., Endpoint]) -> None:
    items = HaluEval2(endpoint("http://127.0.0.1:9/v1")).load(REAL)
    assert len({item.id for item in items}) == 200
    assert set(Counter(item.group for item in items).values()) == {40}
