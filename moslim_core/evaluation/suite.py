"""What an evaluation is made of: control over the preferences with fronts, and public benchmarks. Each measures a system and keeps all.

Files of a system `before` or `after`: `controllability.<system>.json`, `answers.<system>.jsonl`; `together.<system>.json`,
`answers.together.<system>.jsonl`; `front.<system>.json`, `answers.front.<system>.jsonl`; `attack.<system>.json`,
`answers.attack.<system>.jsonl`; `agreement.<system>.json`; `benchmarks.<system>.json`, `answers.<benchmark>.<system>.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, TypeAdapter

from moslim_core.data.rows import load_prompts, load_rows, plain_text, read_json_lines, write_json_lines
from moslim_core.evaluation import attack, joint_requests
from moslim_core.evaluation.answers import answer, empty, requests
from moslim_core.evaluation.benchmarks import run as benchmarks
from moslim_core.evaluation.controllability import Controllability, Obtained, controllability
from moslim_core.evaluation.fluency import surprise
from moslim_core.evaluation.fronts import FIGURES, Front
from moslim_core.evaluation.judges import Judge
from moslim_core.evaluation.operating_points import measure, steered
from moslim_core.evaluation.settings import EvaluationSettings
from moslim_core.evaluation.system import System
from moslim_core.judging.endpoint import Endpoint
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.generation import Answer, Sampling
from moslim_core.preferences import Message, PreferenceSchema, Targets
from moslim_core.reward.topic import Topic
from moslim_core.statistics.agreement import JudgeAgreement, judge_agreement

Metrics = dict[str, float | None]
Agreement = TypeAdapter(dict[str, JudgeAgreement])
Runs = TypeAdapter(dict[str, benchmarks.Run])
# The suite's name for control, beside those of public benchmarks.
CONTROL = "controllability"


class Part(Protocol):
    def of(self, name: str, system: System) -> Metrics:
        """Measure the system `name`, the starting model first; its key numbers, None where one is undefined."""


class Control:
    """Requested against obtained levels, also under attack, and the front between preferences, by the first of `judges`; how far they
    agree, if there are two; with `topic`, which answers leave it."""

    def __init__(
        self, settings: EvaluationSettings, card: PolicyCard, rows: Path, judges: Sequence[Judge], output: Path, topic: Topic | None = None
    ) -> None:
        self.settings, self.judges, self.output = settings, judges, output
        self.schema, self.held_out = card.preferences, [Targets(pair) for pair in card.held_out]
        self.prompts = load_prompts(rows / "prompts.evaluation.jsonl")
        self.sampling = Sampling(card.max_new_tokens, self.settings.temperature, self.settings.batch_size)
        self.topic = topic
        # The starting model's reference point serves every system.
        self.reference: dict[str, float | None] | None = None
        write_json_lines(output / "prompts.jsonl", ({"prompt": p} for p in self.prompts))

    def of(self, name: str, system: System) -> Metrics:
        """Answers of one system and its figures: each is written to the output folder, the key numbers are returned."""
        rows = answer(system, "controllability", self.prompts, requests(self.schema, self.held_out), self.judges[0], self.sampling)
        write_json_lines(self.output / f"answers.{name}.jsonl", (r.model_dump() for r in rows))
        nothing = empty(rows, self.prompts, self.topic)
        result = controllability(rows, self.schema, self.held_out, self.settings.bootstrap, system.seed, nothing)
        _write(self.output / f"controllability.{name}.json", result)
        metrics: Metrics = {name: getattr(result, name) for name in ("truncated", "repeats_instruction", "off_topic", "restated")}
        metrics["held_out/mae"] = result.held_out.value
        for preference, control in result.preferences.items():
            for figure in ("spearman", "mae", "exact", "within_one", "span"):
                metrics[f"{preference}/{figure}"] = getattr(control, figure).value
        return (
            metrics
            | self._together(name, system, rows)
            | self._attack(name, system, rows)
            | self._front(name, system)
            | self._agreement(name, rows, system.seed)
        )

    def _together(self, name: str, system: System, alone: Sequence[Obtained]) -> Metrics:
        each = self.settings.together
        if not each or steered(self.schema) is None:
            return {}
        rows = joint_requests.answers(system, self.schema, self.held_out, self.prompts, each, self.judges[0], self.sampling)
        write_json_lines(self.output / f"answers.together.{name}.jsonl", (r.model_dump() for r in rows))
        correlations = joint_requests.together(rows, alone, self.schema, self.settings.bootstrap, system.seed)
        _write(self.output / f"together.{name}.json", correlations)
        return {
            f"together/{size}/{preference}/spearman": value.value
            for size, of in correlations.spearman.items()
            for preference, value in of.items()
            if size > 1
        }

    def _attack(self, name: str, system: System, rows: Sequence[Obtained]) -> Metrics:
        prompts = self.prompts[: self.settings.attack_prompts]
        if not prompts:
            return {}
        attacked = attack.answers(system, self.schema, prompts, self.judges[0], self.sampling)
        write_json_lines(self.output / f"answers.attack.{name}.jsonl", (a.model_dump() for a in attacked))
        resistance = attack.under_attack(attacked, rows, self.schema, len(prompts), self.settings.bootstrap, system.seed)
        _write(self.output / f"attack.{name}.json", resistance)
        metrics: Metrics = {f"attack/{kind}/gave_way": share.value for kind, share in resistance.gave_way.items()}
        for preference, under in resistance.preferences.items():
            for kind in resistance.gave_way:
                for figure in ("spearman", "mae", "moved"):
                    metrics[f"attack/{kind}/{preference}/{figure}"] = getattr(under[kind], figure).value
        return metrics

    def _front(self, name: str, system: System) -> Metrics:
        schema = steered(self.schema)
        if schema is None or not self.settings.operating_points:
            return {}
        points, draws = self.settings.operating_points, self.settings.bootstrap
        front, rows = measure(system, schema, points, self.prompts, self.judges[0], self.sampling, self.reference, draws)
        self.reference = front.reference
        _write(self.output / f"front.{name}.json", front)
        write_json_lines(self.output / f"answers.front.{name}.jsonl", (r.model_dump() for r in rows))
        return {f"front/{figure}": getattr(front, figure).value for figure in FIGURES}

    def _agreement(self, name: str, rows: Sequence[Obtained], seed: int) -> Metrics:
        if len(self.judges) == 1:
            return {}
        texts = [plain_text(prompt) for prompt in self.prompts]
        second = self.judges[1].levels([texts[row.prompt] for row in rows], [row.text for row in rows])
        prompts = np.array([row.prompt for row in rows])
        agreements = {
            preference: judge_agreement(
                _column([row.levels for row in rows], preference), _column(second, preference), prompts, self.settings.bootstrap, seed
            )
            for preference in self.schema.names
        }
        (self.output / f"agreement.{name}.json").write_bytes(Agreement.dump_json(agreements, indent=1))
        return {f"agreement/{preference}/kappa": of.quadratic_kappa.value for preference, of in agreements.items()}


class Benchmarks:
    """Public benchmarks under stated targets, by rules or by the language model at `endpoint`; without one what needs it is not run."""

    def __init__(
        self,
        settings: EvaluationSettings,
        schema: PreferenceSchema,
        longest: int,
        rows: Path,
        endpoint: Endpoint | None,
        cache: Path,
        output: Path,
        near_duplicates: float,
    ) -> None:
        """`longest`: tokens of an answer where the settings do not say it. `near_duplicates`: items as like as this to a prompt that was
        trained on are left out (data.near_duplicates)."""
        self.settings, self.output = settings, output
        self.targets = schema.targets(self.settings.targets)
        self.sampling = Sampling(self.settings.max_new_tokens or longest, self.settings.temperature, self.settings.batch_size)
        trained = load_prompts(rows / "prompts.train.jsonl")
        trained += [row.prompt for row in load_rows(rows / "train.jsonl")]
        names = [name for name in self.settings.suite if name != CONTROL]
        self.tasks = benchmarks.tasks(
            names, endpoint, self.settings.data_dir, cache / "benchmarks", trained, near_duplicates, self.settings.limit
        )
        # Of each system: by benchmark whose fluency counts, what was read and answered.
        self.replies: dict[str, dict[str, benchmarks.Replies]] = {}

    def of(self, name: str, system: System) -> Metrics:
        """Replies of one system to all benchmarks and their figures: written to the output folder, the key numbers returned."""

        def respond(what: str, conversations: list[list[Message]]) -> tuple[list[list[Message]], list[Answer | None]]:
            place = what.rpartition("-")[0]
            read = [system.conditioned(c, self.targets, f"{place}/{n}") for n, c in enumerate(conversations)]
            return read, system.answers(what, read, self.sampling)

        return self.of_answers(name, respond, system.seed)

    def of_answers(self, name: str, respond: benchmarks.Respond, seed: int) -> Metrics:
        """As `of`, of whoever answers by `respond`."""
        runs: dict[str, benchmarks.Run] = {}
        metrics: Metrics = {}
        for benchmark, task in self.tasks.items():
            runs[benchmark], records, replies = benchmarks.run(task, respond, self.targets, self.settings.bootstrap, seed)
            if task.benchmark.fluency:
                self.replies.setdefault(name, {})[benchmark] = replies
            write_json_lines(self.output / f"answers.{benchmark}.{name}.jsonl", records)
            metrics |= {f"{benchmark}/{m}": figure.overall.mean.value for m, figure in runs[benchmark].result.measures.items()}
        (self.output / f"benchmarks.{name}.json").write_bytes(Runs.dump_json(runs, indent=1))
        return metrics

    def of_fluency(self, name: str, start: Any, tokenizer: Any, seed: int) -> Metrics:
        """Adds to the result of the system `name` how much its answers surprise the starting model `start`, where `replies` are."""
        runs = read_benchmarks(self.output, name)
        metrics: Metrics = {}
        for benchmark, replies in self.replies[name].items():
            surprises = surprise(start, tokenizer, replies)
            benchmarks.add_surprise(runs[benchmark], self.tasks[benchmark], surprises, self.settings.bootstrap, seed)
            metrics[f"{benchmark}/{benchmarks.SURPRISE}"] = runs[benchmark].result.measures[benchmarks.SURPRISE].overall.mean.value
        (self.output / f"benchmarks.{name}.json").write_bytes(Runs.dump_json(runs, indent=1))
        return metrics


def read_control(folder: Path, name: str) -> Controllability:
    """Of the system `name` from an evaluation's output, whose suite has control."""
    return Controllability.model_validate_json((folder / f"controllability.{name}.json").read_bytes())


def read_answers(folder: Path, name: str) -> list[Obtained]:
    """What that system's control was measured from."""
    return [Obtained.model_validate(value) for _, value in read_json_lines(folder / f"answers.{name}.jsonl")]


def read_front(folder: Path, name: str) -> Front | None:
    """None where there was nothing to trade, or no front was wanted."""
    file = folder / f"front.{name}.json"
    return Front.model_validate_json(file.read_bytes()) if file.is_file() else None


def read_together(folder: Path, name: str) -> joint_requests.Together | None:
    """None where no request named several preferences."""
    file = folder / f"together.{name}.json"
    return joint_requests.Together.model_validate_json(file.read_bytes()) if file.is_file() else None


def read_attack(folder: Path, name: str) -> attack.UnderAttack | None:
    """None where nothing was attacked."""
    file = folder / f"attack.{name}.json"
    return attack.UnderAttack.model_validate_json(file.read_bytes()) if file.is_file() else None


def read_agreement(folder: Path, name: str) -> dict[str, JudgeAgreement]:
    """Preference -> how far two judges agree; empty where there was one."""
    file = folder / f"agreement.{name}.json"
    return Agreement.validate_json(file.read_bytes()) if file.is_file() else {}


def read_benchmarks(folder: Path, name: str) -> dict[str, benchmarks.Run]:
    """Benchmark -> its run; empty where none was in the suite."""
    file = folder / f"benchmarks.{name}.json"
    return Runs.validate_json(file.read_bytes()) if file.is_file() else {}


def _write(file: Path, value: BaseModel) -> None:
    file.write_text(value.model_dump_json(indent=1), encoding="utf-8")


def _column(levels: Sequence[Mapping[str, float]], preference: str) -> np.ndarray:
    return np.array([of.get(preference, np.nan) for of in levels], dtype=float)
