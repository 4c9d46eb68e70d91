"""What a compared figure is called, which way is better, and which values it can have. (ours)"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Kind(NamedTuple):
    """`better`: None where neither way is. `low`, `high`: the least and the greatest value that it can have, None without bound.

    `headline`: whether a page begins with it; of one preference one figure does, and the others stand in the table.
    """

    label: str
    better: Literal["higher", "lower"] | None = None
    low: float | None = None
    high: float | None = None
    headline: bool = True


# By the last part of a figure's name.
KINDS = {
    "hypervolume": Kind("hypervolume", "higher", 0.0),
    "inner_product": Kind("inner product", "higher", 0.0, 1.0),
    # They say how points lie on the front, not how far out.
    "sparsity": Kind("sparsity", None, 0.0, headline=False),
    "spacing": Kind("spacing", None, 0.0, headline=False),
    "spearman": Kind("Spearman", "higher", -1.0, 1.0),
    "mae": Kind("mean error", "lower", 0.0),
    "exact": Kind("level met", "higher", 0.0, 1.0, headline=False),
    "within_one": Kind("within one level", "higher", 0.0, 1.0, headline=False),
    "span": Kind("span in levels", "higher", headline=False),
    "spread": Kind("spread under one request, in levels", "lower", 0.0, headline=False),
    "cross-talk": Kind("cross-talk", "lower", 0.0),
    "truncated": Kind("cut off", "lower", 0.0, 1.0),
    "repeats_instruction": Kind("answers that repeat their instruction", "lower", 0.0, 1.0, headline=False),
    "off_topic": Kind("off the topic", "lower", 0.0, 1.0),
    "restated": Kind("only the question again", "lower", 0.0, 1.0),
    "without verdict": Kind("number of answers without a verdict", "lower", 0.0, headline=False),
    "wish": Kind("way given to a contradicting wish", "lower"),
    "forged": Kind("way given to a forged instruction", "lower"),
    "contains_answer": Kind("known answers given", "higher", 0.0, 1.0),
    "loops": Kind("answers that loop", "lower", 0.0, 1.0),
    "surprise": Kind("surprise to the starting model", None, 0.0, headline=False),
    "accuracy": Kind("intensity accuracy", "higher", 0.0, 1.0),
    "preference_accuracy": Kind("preference accuracy", "higher", 0.0, 1.0),
    "macro_f1": Kind("macro F1", "higher", 0.0, 1.0),
    "kappa": Kind("weighted kappa", "higher", -1.0, 1.0),
    "auc": Kind("area under the ROC curve", "higher", 0.0, 1.0),
    "ece": Kind("calibration error", "lower", 0.0, 1.0),
}
# Labels leave these subjects out, as there is only one of each.
UNNAMED = ("front", "left open", "attack", "known_answers")


def kind_of(name: str) -> Kind:
    """Of a figure by its name, `ABOUT/KIND`; of one that is not known, its own name alone."""
    return KINDS.get(name.rpartition("/")[2], Kind(name))


def label_of(name: str) -> str:
    """'Spearman of verbosity' of `verbosity/spearman`, 'hypervolume' of `front/hypervolume`."""
    about, _, last = name.rpartition("/")
    label = kind_of(name).label
    return label if not about or about in UNNAMED or last not in KINDS else f"{label} of {about}"
