"""The stages, in the order of a run: a new one is a module of its own in tasks/stages/ and a line in `STAGES`. (ours)

Worker processes, pools, the report, links and the guard of versions follow this list; which stage runs when is wired in flows/align.py.
Modules are named and not imported: a worker has use for its own alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from moslim_core.baselines import methods
from moslim_core.errors import UserError

if TYPE_CHECKING:
    from tasks.execution.stage import Stage

# A stage for each compared system.
COMPARED = "compared_"
# What the work of a stage loads first, and longest.
TOKENIZERS = "transformers.models.auto.tokenization_auto"
SCORING = "moslim_core.reward.model"
TRAINING = "moslim_core.policy.learner"


class Listed(NamedTuple):
    """The module with the function `work`, what its Stage is called there, and as what later stages and the report take its output;
    `linked`: it lies in latest/ by that name too; `loads`: the libraries, by a module that imports them."""

    module: str
    gives: str
    stage: str = "STAGE"
    linked: bool = False
    loads: str = TRAINING


STAGES = {
    "label": Listed("tasks.stages.label", "rows", loads=TOKENIZERS),
    "train_reward": Listed("tasks.stages.train_reward", "reward_model", "REWARD_STAGE", linked=True, loads=SCORING),
    "train_judge": Listed("tasks.stages.train_reward", "judge", "JUDGE_STAGE", loads=SCORING),
    "train_policy": Listed("tasks.stages.train_policy", "policy", linked=True),
    "evaluate": Listed("tasks.stages.evaluate", "evaluation", loads=SCORING),
    "report": Listed("tasks.stages.report", "report", loads="moslim_core.report.page"),
}


# What a run asks of a process that has the libraries (tasks/execution/questions.py), by the module that answers.
QUESTIONS = {
    "check": "tasks.planning.check",
    "plan": "tasks.planning.plan",
    "plan_comparison": "tasks.planning.plan_comparison",
}


def names() -> list[str]:
    """Of all stages, those of compared systems at the end."""
    return [*STAGES, *(COMPARED + name for name in methods())]


def module_of(name: str) -> str:
    """Where the work of a stage is, or of a question."""
    if name in QUESTIONS:
        return QUESTIONS[name]
    return "tasks.stages.compare_systems" if name.startswith(COMPARED) else STAGES[name].module


def libraries_of(name: str) -> str:
    """A module that imports what the work of a stage, or of a question, needs most of its start for."""
    if name in QUESTIONS:
        return "moslim_core.preflight"
    return STAGES[name].loads if name in STAGES else TRAINING


def stage_named(name: str) -> Stage:
    """Raises UserError where there is none."""
    if name not in names():
        raise UserError(f"name={name}: there is no such stage.\nGive one of {', '.join(names())}.")
    module = import_module(module_of(name))
    return getattr(module, STAGES[name].stage) if name in STAGES else module.stage_of(name.removeprefix(COMPARED))
