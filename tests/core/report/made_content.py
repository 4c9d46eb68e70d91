"""A run as a report shows it: answers whose control is known, measured by the library's own functions."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from moslim_core.evaluation.attack import Attacked, UnderAttack, ends, under_attack
from moslim_core.evaluation.benchmarks.benchmark import NO_JUDGE, Chat, Judged, Meaning, Verdict, evaluate, less, more
from moslim_core.evaluation.benchmarks.run import Run
from moslim_core.evaluation.controllability import Controllability, Obtained, controllability
from moslim_core.evaluation.fronts import Front, front, levels_of, reference_point, simplex_grid
from moslim_core.evaluation.joint_requests import Together, together
from moslim_core.judging.endpoint import Usage
from moslim_core.policy.generation import Answer
from moslim_core.preferences import PreferenceSchema, Targets
from moslim_core.report import Both, ReportContent, Sample, SampleRow, render
from moslim_core.reward.metrics import head_metrics
from moslim_core.statistics.agreement import JudgeAgreement, judge_agreement

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "verbosity", "levels": ["very short", "short", "medium", "long", "very long"]},
        {"name": "simplicity", "levels": ["expert", "plain", "very simple"]},
        {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
        {"name": "harmlessness", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)
HELD_OUT = [Targets({"verbosity": 1, "warmth": 3}), Targets({"verbosity": 4, "simplicity": 1})]
STRONG = {"verbosity": 0.9, "simplicity": 0.6, "warmth": 0.0}
# How much of a verdict by rule training gains: it confirms one, sees no change in one, and falls in one.
RULE = {"verbosity": 0.3, "simplicity": 0.0, "warmth": -0.2}
WEAK = {"verbosity": 0.15, "simplicity": 0.55, "warmth": 0.0}


def measured(control: dict[str, float], prompts: int = 24, missing: bool = False) -> Controllability:
    """A system whose obtained level moves by `control` levels for each requested one, around the middle, plus noise."""
    rng = np.random.default_rng(3)
    steered = [p for p in SCHEMA.preferences if not p.is_guard]
    requests = [{p.name: level} for p in SCHEMA.preferences for level in p.requestable]
    pairs = itertools.combinations(steered, 2)
    requests += [{a.name: i, b.name: j} for a, b in pairs for i in a.requestable for j in b.requestable]
    rows = []
    for prompt in range(prompts):
        bias = rng.normal(0, 0.4)
        for targets in requests:
            levels = {}
            for p in SCHEMA.preferences:
                middle = 2 if p.is_guard else (p.k + 1) / 2
                level = middle + control.get(p.name, 0) * (targets.get(p.name, middle) - middle) + bias + rng.normal(0, 0.5)
                levels[p.name] = float(np.clip(round(level), 1, p.k))
            if missing and prompt == 0:
                levels.pop("warmth")
            words = int(20 + 30 * levels["verbosity"] + rng.integers(0, 9))
            text = " ".join(["word"] * words)
            cut = bool(rng.random() < 0.1)
            rows.append(Obtained(prompt=prompt, targets=targets, text=text, tokens=words, truncated=cut, levels=levels))
    return controllability(rows, SCHEMA, HELD_OUT, bootstrap=100, seed=0)


def steps(count: int = 60) -> list[dict[str, float]]:
    rng = np.random.default_rng(1)
    rows = []
    for step in range(1, count + 1):
        done = 1 - math.exp(-step / 25)
        row = {"step": float(step), "reward": done + rng.normal(0, 0.15), "kl": 0.05 * done, "kl_sequence": 5 * done}
        row |= {"entropy": 2.1 - 0.5 * done + rng.normal(0, 0.04), "completion_tokens": 90 - 20 * done}
        row |= {"truncated": max(0.0, 0.3 - 0.25 * done), "zero_variance": 0.05 + 0.1 * rng.random()}
        row |= {"zero_variance/verbosity": 0.1 * rng.random(), "zero_variance/verbosity/1": 1.0}
        row |= {f"utility/{name}": 0.55 + STRONG.get(name, 0.4) * 0.3 * done + rng.normal(0, 0.03) for name in SCHEMA.names}
        row |= {f"judged/{name}": 0.5 + RULE[name] * done + rng.normal(0, 0.03) for name in RULE}
        row |= {"seconds/rollout": 7 + rng.random(), "seconds/reward": 0.4, "seconds/update": 4 + rng.random()}
        rows.append(row)
    del rows[5]["entropy"]
    rows[7]["reward"] = math.nan
    return rows


def head(k: int, skill: float) -> Any:
    rng = np.random.default_rng(k)
    levels = rng.choice(np.arange(1, k + 1), size=400, p=np.arange(1, k + 1) / sum(range(1, k + 1)))
    probabilities = rng.dirichlet(np.ones(k), 400) * (1 - skill) + skill * np.eye(k)[levels - 1]
    return head_metrics(probabilities, levels, majority_level=k, scale=1.2)


def fronts(names: Sequence[str], before: dict[str, float] = WEAK, after: dict[str, float] = STRONG, points: int = 7) -> Both[Front]:
    """Of systems that follow the requests at the operating points as `measured` says."""
    schema = PreferenceSchema.model_validate([p.model_dump() for p in SCHEMA.preferences if p.name in names])
    weights = simplex_grid(len(names), points)
    asked = [levels_of(w, schema) for w in weights]

    def tables(control: dict[str, float]) -> list[np.ndarray]:
        rng = np.random.default_rng(5)
        found = []
        for targets in asked:
            scores = np.array([p.score(targets[p.name]) if p.name in targets else 0.5 for p in schema.preferences])
            wanted = 0.5 + np.array([control.get(p.name, 0) for p in schema.preferences]) * (scores - 0.5)
            found.append(np.clip(wanted + rng.normal(0, 0.12, (24, len(names))), 0, 1))
        return found

    scores = {system: tables(control) for system, control in (("before", before), ("after", after))}
    reference = reference_point(np.array([table.mean(axis=0) for table in scores["before"]]))
    return Both(**{system: front(found, weights, asked, schema.names, reference, 100, 0) for system, found in scores.items()})


class Drawn:
    """A benchmark whose judge finds each measure at a given rate in each of `groups`, or is not there."""

    def __init__(
        self, name: str, rates: dict[str, tuple[Meaning, float]], groups: int, not_run: Sequence[str] = (), **notes: float
    ) -> None:
        self.name, self.rates, self.groups = name, rates, groups
        self.not_run, self.notes = dict.fromkeys(not_run, NO_JUDGE), notes
        self.measures = {measure: meaning for measure, (meaning, _) in rates.items()} | dict.fromkeys(not_run, less("never"))

    def judge(self, items: Sequence[Chat], answers: Sequence[Sequence[Answer]]) -> Judged:
        rng = np.random.default_rng(2)
        verdicts = [
            Verdict(item.id, item.group, measure, None if n % 37 == 5 else float(rng.random() < rate))
            for measure, (_, rate) in self.rates.items()
            for n, item in enumerate(items)
        ]
        return Judged(verdicts, self.not_run, {name.replace("_", " "): value for name, value in self.notes.items()})


def run_of(benchmark: Drawn, items: int, cut: float = 0.1, targets: dict[str, int] | None = None, dropped: int = 0) -> Run:
    asked = [Chat(str(n), f"kind {n % benchmark.groups + 1}", ("?",)) for n in range(items)]
    answers = [[Answer(text="", tokens=1, truncated=n < cut * items)] for n in range(items)]
    result = evaluate(benchmark, asked, answers, bootstrap=100, seed=0)  # type: ignore[arg-type]
    return Run(targets=targets or {}, dropped={"identical prompt": dropped} if dropped else {}, result=result)


def xstest(safe: float, unsafe: float) -> Run:
    rates = {
        "refusals_safe": (less("share of safe prompts that are refused"), safe),
        "refusals_unsafe": (more("share of unsafe prompts that are refused"), unsafe),
    }
    notes = {"examples_of_the_refusal_rule": 120, "refusals_that_the_rule_tells": 0.93}
    return run_of(Drawn("xstest", rates, 4, **notes), 96, targets={"warmth": 2}, dropped=3)


def hackaprompt(rate: float) -> Run:
    meaning = less("share of attacks after which the model says exactly what the attacker wants")
    return run_of(Drawn("hackaprompt", {"attack_success_rate": (meaning, rate)}, 3, not_run=("harmlessness",)), 60, cut=0.4)


def mt_bench() -> Run:
    return run_of(Drawn("mt_bench", {}, 1, not_run=("grade", "grade_turn_1", "grade_turn_2")), 0)


BENCHMARKS = {
    "mt_bench": Both(before=mt_bench(), after=mt_bench()),
    "hackaprompt": Both(before=hackaprompt(0.05), after=hackaprompt(0.5)),
    "xstest": Both(before=xstest(0.5, 0.6), after=xstest(0.05, 0.55)),
}


def agreement(noise: float, prompts: int = 24) -> JudgeAgreement:
    """Of two judges, the second of whom errs by normal noise."""
    rng = np.random.default_rng(4)
    first = rng.integers(1, 6, 4 * prompts).astype(float)
    second = np.clip(first + rng.normal(0, noise, len(first)), 1, 5)
    second[0] = math.nan
    return judge_agreement(first, second, np.repeat(np.arange(prompts), 4), bootstrap=100, seed=0)


@cache
def _measured_once() -> dict[str, Any]:
    """What takes time; tests change copies."""
    return {
        "before": measured(WEAK),
        "after": measured(STRONG),
        "reward_heads": {"verbosity": head(5, 0.5), "simplicity": head(3, 0.4), "warmth": head(3, 0.0)},
        "fronts": fronts(("verbosity", "simplicity", "warmth")),
        "agreement": {name: Both(before=agreement(0.4), after=agreement(noise)) for name, noise in (("verbosity", 0.3), ("warmth", 1.2))},
    }


@cache
def attacked(gives_way: float) -> UnderAttack:
    """A system in full control that goes a share of the way to what an attack wants, and half as far for a forged line."""
    calm, rows = [], []
    for prompt, preference in itertools.product(range(8), SCHEMA.preferences):
        for level, wanted in ends(preference).items():
            known: dict[str, Any] = {"prompt": prompt, "targets": {preference.name: level}, "text": "w", "tokens": 1, "truncated": False}
            calm.append(Obtained(**known, levels={preference.name: level}))
            for attack, share in (("wish", gives_way), ("forged", gives_way / 2)):
                rows.append(Attacked(**known, attack=attack, levels={preference.name: level + share * (wanted - level)}))
    return under_attack(rows, calm, SCHEMA, 8, 100, 0)


def asked_together(follows: float) -> Together:
    """Requests for one, two and three preferences; answers that follow with this probability, else are in the middle."""
    rng = random.Random(0)

    def row(prompt: int, size: int) -> Obtained:
        targets = {p.name: rng.choice(p.requestable) for p in rng.sample(SCHEMA.preferences, size)}
        levels = {name: float(level) if rng.random() < follows else 2.0 for name, level in targets.items()}
        return Obtained(prompt=prompt, targets=targets, text="w", tokens=1, truncated=False, levels=levels)

    alone, several = ([row(n % 12, size) for n in range(60) for size in sizes] for sizes in ((1,), (2, 3)))
    return together(several, alone, SCHEMA, 100, 0)


def made(**changes: Any) -> ReportContent:
    answer = "Tides rise and fall because the Moon pulls the sea. "
    values: dict[str, Any] = {
        **_measured_once(),
        "title": "Short, simple, warm: demonstration",
        "created": "2025-11-23T19:30:00+00:00",
        "preferences": SCHEMA,
        "trained": "online_dpo, 8 steps, seed 0",
        "judge": "Obtained levels are measured by rules: words, readability and sentiment, cut at fixed thresholds.",
        "training": steps(),
        "samples": [
            Sample(
                prompt="Why are there tides?",
                preference="verbosity",
                rows=[
                    SampleRow(level=1, before=answer * 5, after=answer, before_obtained=3, after_obtained=1),
                    SampleRow(level=3, before=answer * 6, after=answer * 4, before_obtained=3, after_obtained=2.4),
                    SampleRow(level=5, before=answer * 4, after=answer * 14, before_obtained=2, after_obtained=None),
                ],
            )
        ],
        "together": Both(before=asked_together(0.0), after=asked_together(0.9)),
        "attack": Both(before=attacked(1.0), after=attacked(0.4)),
        "benchmarks": BENCHMARKS,
        "second_judge": "the language model little-judge",
        "judge_usage": Usage(calls=1210, cached=40, unparsable=3, input_tokens=410_200, output_tokens=21_007, cost=0.3718),
        "data_card": {
            "rows": {"train": 8120, "validation": 702, "test": 911},
            "sources": {"smollm2-135m, instructed": 6200, "smollm2-135m, plain": 3533},
            "labels": {
                "verbosity": {"labelled": 9733, "levels": {"1": 400, "2": 1900, "3": 3300, "4": 2533, "5": 1600}},
                "simplicity": {"labelled": 9733, "levels": {"1": 3000, "2": 4733, "3": 2000}},
                "warmth": {"labelled": 9000, "levels": {"1": 200, "2": 1800, "3": 7000}},
            },
            "dropped": {"empty answer": 41, "duplicate": 12},
        },
        "seconds": {"label": 0.0, "train_reward": 214.0, "train_policy": 1440.0, "evaluate": 610.5},
        "peak_memory_gb": 3.42,
        "settings": {"seed": 0, "policy": {"steps": 60, "prompts": Path("data/prompts.jsonl")}},
        "notes": ["60 steps on two CPU cores: enough to see the direction, not the limit."],
    }
    return ReportContent(**(values | changes))


def text_of(html: str, section: str) -> str:
    """The words of one section of a page, white space collapsed."""
    found = re.search(rf'<section id="{section}">(.*?)</section>', html, re.DOTALL)
    assert found, section
    return " ".join(re.sub(r"<[^>]+>", " ", found.group(1)).split())


def told(content: ReportContent, section: str) -> str:
    """The words of one section of a page without its figures, which take seconds to draw."""
    return text_of(undrawn(content), section)


def undrawn(content: ReportContent) -> str:
    with patch("moslim_core.report.page.all_figures", return_value={}):
        return render(content)
