"""What a deployment's form asks for: a profile, packaged or a file on the worker's machine, and changes to it, or every setting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError

from flows import profile as profiles
from moslim_core.models.identity import public_name
from moslim_core.settings import Settings
from moslim_core.settings_section import Section
from tasks.ledger.overview import run_name
from tasks.surroundings import on_worker

# What flows/profiles holds: this form offers names, and no path.
if TYPE_CHECKING:
    ProfileName = str
else:
    ProfileName = Literal[tuple(profiles.packaged())]

WorkDir = Annotated[Path, Field(title="Work directory", description="folder on the worker's machine that everything is written below")]
Changes = Annotated[
    tuple[str, ...], Field(title="Changes", description="KEY=VALUE as for --set, e.g. policy.steps=40 or data.path=/data/rows")
]


class FromProfile(Section):
    """A packaged profile, and what is to be other than it says."""

    model_config = ConfigDict(title="A packaged profile")

    profile: ProfileName = Field(
        default="demo",
        title="Profile",
        description=" ".join(f"{name}: {profiles.about(name)}" for name in profiles.packaged()),
    )
    work_dir: WorkDir
    set: Changes = ()

    def settings(self) -> Settings:
        """Raises UserError, naming the key and what it takes."""
        return profiles.load(self.profile, [f"work_dir={self.work_dir}", *self.set])


class FromFile(Section):
    """A profile of one's own, and what is to be other than it says."""

    model_config = ConfigDict(title="A file of yours")

    # Other files are none of a form's business: what is wrong in a profile is quoted in the run's log.
    file: str = Field(
        title="Profile file",
        pattern=r"\.(yaml|yml|json)$",
        description="YAML or JSON on the worker's machine, as moslim init writes it, read when the run starts; a relative path is below the"
        " work directory",
    )
    work_dir: WorkDir
    set: Changes = ()

    @property
    def profile(self) -> str:
        """As the command line takes it."""
        return str(self.work_dir / os.path.expanduser(self.file))

    def settings(self) -> Settings:
        """Raises UserError, naming the key and what it takes."""
        return profiles.load(self.profile, [f"work_dir={self.work_dir}", *self.set])


def _which(value: Any) -> str:
    for key, kind in (("profile", FromProfile), ("file", FromFile)):
        if isinstance(value, kind) or (isinstance(value, dict) and key in value):
            return key
    return "settings"


class _Tabs:
    """Prefect's form has tabs for anyOf, and raw JSON for oneOf."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        made: dict[str, Any] = handler(core)
        return {"anyOf": made.pop("oneOf"), **made}


# An error is about the kind that was given, not about all. Prefect's form shows the first tab where values fit several, as those do
# whose file is not typed yet.
Form = Annotated[
    Annotated[FromFile, Tag("file")] | Annotated[FromProfile, Tag("profile")] | Annotated[Settings, Tag("settings")],
    Discriminator(_which),
    _Tabs(),
]


def form_of(settings: Settings, profile: str) -> FromProfile | FromFile | Settings:
    """The shortest form that stands for `settings`, which were loaded from `profile`."""
    form: FromProfile | FromFile
    if profile in profiles.packaged():
        form = FromProfile(profile=profile, work_dir=settings.work_dir)
    else:
        try:
            form = FromFile(file=str(Path(os.path.expanduser(profile)).absolute()), work_dir=settings.work_dir)
        except ValidationError:
            # The command line takes a profile whose name ends otherwise; a form does not.
            return settings
    return form if form.settings() == settings else settings


def filled_in(form: FromProfile | FromFile | Settings) -> Settings:
    """The settings that a form stands for, their work directory made ready. Raises UserError."""
    return on_worker.prepared(profiles.absolute(form) if isinstance(form, Settings) else form.settings())


def name_of(form: FromProfile | FromFile | Settings, settings: Settings, until: str) -> str:
    """What a run is called whose form was filled in as `settings`."""
    if isinstance(form, Settings):
        return run_name(settings, public_name(settings.model.base), (), until)
    return run_name(settings, form.profile, form.set, until)
