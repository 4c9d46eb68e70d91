"""The README.md beside a saved reward model: what it is, how well it does, how to load it."""

from __future__ import annotations

from collections.abc import Mapping

from moslim_core.models.identity import ModelId
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.metrics import HeadMetrics, PairAccuracy
from moslim_core.reward.settings import RewardSettings

COLUMNS = ("head", "labelled", "accuracy", "majority", "kappa", "AUC", "AUC of TF-IDF", "ECE")


def model_card(
    settings: RewardSettings,
    backbone: ModelId,
    schema: PreferenceSchema,
    metrics: Mapping[str, HeadMetrics],
    choices: Mapping[str, PairAccuracy],
) -> str:
    """Markdown, with the front matter that hubs read."""
    levels = "\n".join(
        f"- **{p.name}**{_about(p.description)}: {', '.join(f'{i} = {n}' for i, n in enumerate(p.levels, 1))}" for p in schema.preferences
    )
    lines = [
        "---\nlibrary_name: transformers\ntags: [reward-model, moslim]\n---",
        "# Multi-head reward model",
        f"One `{backbone.name}` backbone (content {backbone.digest[:12]}) {'' if settings.shared else 'for each preference '}"
        f"({settings.tuning} tuning), "
        f"one {settings.head} head per preference. It reads a question and "
        "an answer, and gives the probability of each level:",
        levels,
        "Measured on the test split of the rows that it was trained on, against the majority level and a logistic regression on TF-IDF:",
        "\n".join([_line(COLUMNS), "|" + "---|" * len(COLUMNS), *(_line(_row(name, head)) for name, head in metrics.items())]),
        *(f"Of two answers {name} prefers the chosen one in {of.accuracy} of {of.pairs} choices held out." for name, of in choices.items()),
        "```python\nfrom moslim_core.reward.scorer import RewardScorer\n\nscorer = RewardScorer.load(folder)  # a pathlib.Path\n"
        'probabilities = scorer(["How do bees make honey?"], ["They collect nectar."])\n```',
        "It says how answers like those in its data were rated, and nothing about others. The lower levels of a guard are there to be "
        "recognised, not to be asked for.",
    ]
    return "\n\n".join(lines) + "\n"


def _about(description: str) -> str:
    return f" ({description})" if description else ""


def _row(name: str, head: HeadMetrics) -> tuple[str, ...]:
    simple = head.tfidf.auc if head.tfidf else None
    figures = (head.accuracy, head.majority_accuracy, head.kappa, head.auc, simple, head.ece)
    return (name, str(head.labelled), *("n/a" if value is None else f"{value:.3f}" for value in figures))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
