"""What `moslim compare` is asked to set side by side, as written on the command line.

Apart from the flows: Prefect takes its server's address when it is imported, and that server starts after a bad value was refused.
"""

from __future__ import annotations

import math
from typing import Literal, cast

from moslim_core.baselines import START, methods
from moslim_core.errors import UserError

LastStage = Literal["train_reward", "evaluate"]
# What is compared, by the last stage that was run: metric names that end in one of these.
FIGURES = {
    "train_reward": ("/preference_accuracy", "/accuracy", "/macro_f1", "/kappa", "/mae", "/auc", "/ece"),
    "evaluate": ("/spearman", "/mae", "/span", "/hypervolume", "/truncated"),
}


def parse_over(over: str) -> tuple[str, list[str]]:
    """(key, values) of 'KEY=a,b,c'. Raises UserError on fewer than two different values."""
    key, _, text = over.partition("=")
    values = [value.strip() for value in text.split(",") if value.strip()]
    if len(values) < 2 or len(set(values)) < len(values):
        raise UserError(f"--over {over}: write KEY=a,b with at least two different values, e.g. reward.head=classification,ordinal")
    return key.strip(), values


def parse_seeds(text: str) -> list[int]:
    """Seeds of '0,1,2'. Raises UserError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds {text}: write different whole numbers, e.g. 0,1,2")
    return [int(part) for part in parts]


def parse_search(text: str) -> list[float]:
    """Factors of '0.5,1,2'. Raises UserError."""
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError:
        factors = []
    if len(factors) < 2 or not all(0 < factor < math.inf for factor in factors) or len(set(factors)) < len(factors):
        raise UserError(f"--search {text}: write at least two different factors of the learning rates, above 0, e.g. 0.5,1,2")
    return factors


def last_stage(key: str, until: str | None) -> LastStage:
    """The stage after which runs are compared. Raises UserError if it has no figures."""
    chosen = until or ("train_reward" if key.split(".")[0] in ("data", "reward", "annotation") else "evaluate")
    if chosen not in FIGURES:
        raise UserError(f"--until {chosen}: runs are compared after {' or '.join(FIGURES)}.")
    return cast(LastStage, chosen)


def parse_baselines(text: str) -> list[str]:
    """Names of 'all' or 'a,b,c', in the registry's order, with the starting model, which gives the reference point. Raises UserError."""
    known = methods()
    names = list(known) if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"--baselines {text}: write all, or some of {', '.join(known)}.")
    return [name for name in known if name in names or name == START]
