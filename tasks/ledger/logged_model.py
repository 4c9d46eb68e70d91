"""A policy as a model of MLflow's own: `MLmodel` beside its files, and the loader that it names, for `mlflow.pyfunc.load_model`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from moslim_core.policy.artifact import PolicyCard
    from moslim_core.policy.steerable import SteerablePolicy

PROMPT, PREFERENCES = "prompt", "preferences"
EXAMPLE = "input_example.json"
# What `mlflow.pyfunc.load_model(..., model_config={...})` may say of the machine: it goes to `SteerablePolicy.from_pretrained`.
MACHINE = {"base": None, "device": "auto"}


class LoggedPolicy:
    """What `mlflow.pyfunc.load_model` gives of a policy."""

    def __init__(self, policy: SteerablePolicy) -> None:
        self.policy = policy

    def predict(self, asked: DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """An answer to each row's `prompt`. `preferences`, where there is such a column: what is asked for, as `verbosity=1,warmth=3`.

        `params`: temperature, max_new_tokens and seed, as of `SteerablePolicy.chat_batch`. Raises UserError for what can't be asked for.
        """
        said = asked[PREFERENCES].fillna("") if PREFERENCES in asked else [""] * len(asked)
        targets = [self.policy.card.preferences.parse_targets(text) for text in said]
        return [answer.text for answer in self.policy.chat_batch(list(asked[PROMPT]), targets, **(params or {}))]


def _load_pyfunc(path: str, model_config: Mapping[str, Any]) -> LoggedPolicy:
    """The name that MLflow calls. Raises UserError as `SteerablePolicy.from_pretrained`."""
    from moslim_core.policy.steerable import SteerablePolicy

    return LoggedPolicy(SteerablePolicy.from_pretrained(path, **model_config))


def describe(output: Path, run_id: str, name: str) -> dict[str, str]:
    """Write what MLflow reads of a model into `output`, if that is a policy; gives the tags by which the run's page knows the model.

    `name`: of the folder among the run's artefacts.
    """
    from moslim_core.policy.artifact import POLICY_FILE, PolicyCard

    if not (output / POLICY_FILE).is_file():
        return {}
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_MODELS

    card = PolicyCard.load(output)
    (output / EXAMPLE).write_text(json.dumps(_example(card)), encoding="utf-8")
    shown = {"artifact_path": EXAMPLE, "type": "dataframe", "pandas_orient": "split"}
    model = Model(artifact_path=name, run_id=run_id, signature=_signature(card), saved_input_example_info=shown)
    pyfunc.add_to_model(model, loader_module=__name__, model_config=MACHINE)
    model.save(output / MLMODEL_FILE_NAME)
    return {MLFLOW_LOGGED_MODELS: json.dumps([model.get_tags_dict()])}


def _signature(card: PolicyCard) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, PROMPT), ColSpec(DataType.string, PREFERENCES, required=False)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec("temperature", DataType.double, 0.7),
                ParamSpec("max_new_tokens", DataType.long, card.max_new_tokens),
                ParamSpec("seed", DataType.long, 0),
            ]
        ),
    )


def _example(card: PolicyCard) -> dict[str, Any]:
    """One question under the lowest and the highest level of the first preference, as pandas orients "split"."""
    first = card.preferences.preferences[0]
    asked = [f"{first.name}={level}" for level in (first.requestable[0], first.requestable[-1])]
    return {"columns": [PROMPT, PREFERENCES], "data": [["How do I bake bread at home?", text] for text in asked]}
