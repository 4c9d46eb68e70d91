"""The settings of a run: one class for the YAML profile, the command line, the Prefect form and the error message.

Each room has its sections beside its code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from moslim_core import plugins
from moslim_core.data.settings import AnnotationSettings, DataSettings
from moslim_core.errors import UserError
from moslim_core.evaluation.settings import EvaluationSettings
from moslim_core.models import DeviceName, DType
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.settings import MappingSettings, RewardSettings
from moslim_core.settings_section import LARGEST_SEED, Section, not_text, registries


class ModelSettings(Section):
    """The chat model to align."""

    base: str = Field(default="smollm2-135m", description="hub id, local directory, or a packaged model (smollm2-135m)")
    dtype: DType = Field(default="auto", description="auto: bfloat16 on GPUs; on a CPU the faster of bfloat16 and float32")
    device: DeviceName = Field(default="auto", description="auto: CUDA, else MPS, else CPU")


class Settings(Section):
    """Everything that `moslim run` needs."""

    model_config = ConfigDict(title="Every setting")

    work_dir: Path = Field(
        default=Path(".moslim"), description="everything is written below this folder; on a worker, below MOSLIM_WORK_DIR if that is set"
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="seed of data splits, sampling and training")
    data: DataSettings = Field(default_factory=DataSettings)
    annotation: AnnotationSettings = Field(default_factory=AnnotationSettings)
    preferences: PreferenceSchema = Field(description="what can be asked for; measures that rules may count:")
    model: ModelSettings = Field(default_factory=ModelSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)
    mapping: MappingSettings = Field(default_factory=MappingSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    placement: Literal["inline", "pools"] = Field(
        default="inline",
        description="inline: all stages run on this machine; pools: each as a flow run of its own, training on a worker of the pool gpu, "
        "the rest on one of cpu",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        if (key := not_text(given)) is not None:
            where = f"{key} has" if key else "a name has"
            raise ValueError(f"{where} half a character (a lone surrogate) or a byte that is not UTF-8: write whole characters")
        # One that can't be imported is told whatever is named.
        plugins.load()
        return given

    @model_validator(mode="after")
    def _fits_preferences(self) -> Settings:
        unknown = [name for name in self.mapping.weights if name not in self.preferences.names]
        if unknown:
            raise ValueError(f"mapping.weights names {', '.join(unknown)}; the preferences are {', '.join(self.preferences.names)}")
        if self.data.columns.pairs is not None and self.reward.ranking_weight == 0:
            raise ValueError("data.columns.pairs: chosen and rejected teach by the ranking loss alone, but reward.ranking_weight=0")
        try:
            self.preferences.targets(self.evaluation.targets)
        except UserError as error:
            raise ValueError(f"evaluation.targets: {error}") from error
        return self

    def dump(self) -> dict[str, Any]:
        """Plain JSON data, the form in which settings travel to stages and into records."""
        return self.model_dump(mode="json")

    def content(self) -> dict[str, Any]:
        """`dump` without where the work is done: what results depend on."""
        return {key: value for key, value in self.dump().items() if key not in ("work_dir", "placement")}


def described(section: type[Section] = Settings, prefix: str = "") -> dict[str, list[tuple[str, str, str]]]:
    """{section's one-line description: [(key, default, what it is and in which unit)]}, in the order of the classes.

    What takes names of a registry has a line for each of them below.
    """
    own: list[tuple[str, str, str]] = []
    inner: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            inner |= described(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
            known = [registry.listed() for part in (kind, *field.metadata) for registry in registries(part)]
            lines = [f"{word}: {about}" for listed in known for word, about in listed.items()]
            own.append((prefix + name, default, "\n".join([field.description or "", *lines])))
    return {(section.__doc__ or "").strip(): own, **inner}
