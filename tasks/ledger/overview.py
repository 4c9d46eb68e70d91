"""What a pipeline's run says at first sight, in MLflow and in Prefect: its name, a few figures, a description with links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from moslim_core.settings import Settings
from tasks.ledger.references import Outcome

# Names as people write them; others stand as they are.
OPTIMISERS = {"rloo": "RLOO", "grpo": "GRPO", "ppo": "PPO", "online_dpo": "online DPO"}
# Said by the name itself, or no matter of the result.
UNNAMED = ("work_dir", "placement", "seed", "policy.optimiser")
LONGEST_NAME = 120


def run_name(settings: Settings, profile: str, changes: Sequence[str] = (), until: str = "report") -> str:
    """Such as "demo, online DPO, seed 0": a profile's name or file, the optimiser, the seed, and `changes` as for --set."""
    changed = [change for change in changes if change.partition("=")[0].strip() not in UNNAMED]
    optimiser = settings.policy.optimiser
    parts = [Path(profile).stem or profile, OPTIMISERS.get(optimiser, optimiser), f"seed {settings.seed}", *changed]
    if until != "report":
        parts.append(f"up to {until}")
    name = ", ".join(parts)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def headline_figures(settings: Settings, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Those of `mlflow_pages.FIGURES` that the stages measured, and `control` and `error` of each steered preference."""
    metrics = {name: value for outcome in outcomes.values() for name, value in outcome.metrics.items()}
    steered = [preference.name for preference in settings.preferences.preferences if not preference.is_guard]

    def mean(*names: str) -> float | None:
        values = [metrics[name] for name in names if name in metrics]
        return fmean(values) if values else None

    figures = {
        **{f"control/{name}": metrics.get(f"after/{name}/spearman") for name in steered},
        **{f"error/{name}": metrics.get(f"after/{name}/mae") for name in steered},
        "control": mean(*(f"after/{name}/spearman" for name in steered)),
        "control_start": mean(*(f"before/{name}/spearman" for name in steered)),
        "error": mean(*(f"after/{name}/mae" for name in steered)),
        "front": mean("after/front/hypervolume"),
        "front_start": mean("before/front/hypervolume"),
        "cut_answers": mean("after/truncated"),
        "off_topic_answers": mean("after/off_topic"),
        "restating_answers": mean("after/restated"),
        "reward_accuracy": mean(*(f"head/{name}/accuracy" for name in settings.preferences.names)),
        "minutes": sum(outcome.seconds for outcome in outcomes.values()) / 60,
    }
    return {name: round(value, 3) for name, value in figures.items() if value is not None}


def told(summary: Mapping[str, Any]) -> str:
    """The report's headline, findings and remarks as markdown."""
    findings = [f"- **{of['preference']}**: {of['sentence']}" for of in summary["findings"]]
    return "\n\n".join([f"**{summary['headline']}**", "\n".join(findings), *summary["remarks"]])


def stages_table(outcomes: Mapping[str, Outcome], link: Callable[[str, str], str]) -> str:
    """A markdown table of the stages; `link` makes a link of a run's id and a text."""
    rows = [
        f"| {link(o.ref.run_id, name)} | {_lasted(o.seconds)} | {o.peak_memory_gb:.1f} GB | {'reused' if o.cached else 'made now'} |"
        for name, o in outcomes.items()
    ]
    return "\n".join(["| stage | took | peak memory | |", "|---|---|---|---|", *rows])


def _lasted(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
