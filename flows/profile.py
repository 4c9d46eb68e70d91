"""Settings from a profile (packaged by name, or a YAML file) and `--set key=value`, with errors that say what to write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flows.cli.printed_commands import command
from flows.typed_values import read, typed
from moslim_core.data.tables import SUFFIXES
from moslim_core.errors import UserError
from moslim_core.models import PACKAGED
from moslim_core.policy.settings import AccelerateProfile
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from moslim_core.yaml_text import TextLoader

# Paths in a profile file are relative to it; on the command line, to the current directory.
PATHS = {"data": ("path",), "policy": ("prompts", "accelerate"), "annotation": ("reward_model",), "evaluation": ("data_dir",)}
# So are folders where a model may also have a name.
MODELS = {"model": ("base",), "reward": ("backbone",), "evaluation": ("judge_backbone", "policy")}


def packaged() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("flows").joinpath("profiles").iterdir() if f.name.endswith(".yaml"))


def about(profile: str) -> str:
    """What a packaged profile is: its first line, a comment."""
    return files("flows").joinpath("profiles", f"{profile}.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def load(profile: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a profile with overrides. Raises UserError, naming the key and what it takes."""
    values, name = _read(profile)
    return _validated(_overridden(values, overrides), name)


def override(settings: Settings, overrides: Sequence[str]) -> Settings:
    """`settings` with overrides in the form of --set. Raises UserError, naming the key and what it takes."""
    return _validated(_overridden(settings.dump(), overrides), "with " + ", ".join(overrides))


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    given: dict[str, str] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--set {override}: write key=value, e.g. --set policy.steps=40")
        if given.setdefault(key, text) != text:
            raise UserError(f"--set {key} is given twice, as {given[key]} and as {text}.\nGive it once.")
        _set(values, key.split("."), read(Settings, key, text), override)
    return values


def _validated(values: dict[str, Any], name: str) -> Settings:
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, name) from error
    unruled = [p.name for p in settings.preferences.preferences if p.annotator is None]
    if "annotators" in settings.evaluation.judges and unruled:
        raise UserError(
            f"evaluation.judge=annotators, but {', '.join(unruled)} has no annotator (profile {name}).\n"
            "Give it one under preferences, or set evaluation.judge=reward_model."
        )
    return absolute(settings)


def absolute(settings: Settings) -> Settings:
    """`settings` with whole paths, which mean the same wherever they are read; what is no path (nothing, a name) stays."""
    sections = {}
    for name in dict.fromkeys([*PATHS, *MODELS]):
        section = getattr(settings, name)
        paths = {key: getattr(section, key) for key in PATHS.get(name, ())}
        models = {key: getattr(section, key) for key in MODELS.get(name, ())}
        sections[name] = changed(
            section,
            **{key: _whole(path, Path()) for key, path in paths.items() if isinstance(path, Path)},
            **{key: str(_whole(model, Path())) for key, model in models.items() if _is_folder(model, Path())},
        )
    return changed(settings, **sections)


def _whole(path: Path | str, home: Path) -> Path:
    """An absolute path; a relative one is below `home`."""
    return (home / os.path.expanduser(path)).absolute()


def _is_folder(model: Any, home: Path) -> bool:
    """Whether a model is given as a folder: as the path of one, or by a name that a folder below `home` has and no packaged model."""
    if not isinstance(model, str) or model in PACKAGED or model.startswith(("runs:/", "models:/")):
        return False
    return model.startswith((".", "~", "/")) or (bool(model) and os.path.isdir(home / model))


def _read(profile: str) -> tuple[dict[str, Any], str]:
    if profile in packaged():
        text = files("flows").joinpath("profiles", f"{profile}.yaml").read_text(encoding="utf-8")
        return typed(Settings, yaml.load(text, TextLoader), profile), profile
    path = Path(os.path.expanduser(profile))
    if not os.path.isfile(path):
        raise UserError(f"--profile {profile!r}: no such profile or file.\nPackaged profiles: {', '.join(packaged())}.")
    if path.name.lower().endswith(SUFFIXES):
        raise UserError(f"--profile {path}: that is a file of rows.\nWrite a profile for it: {command('init', str(path))}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), TextLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"--profile {path}: not YAML ({str(error).splitlines()[0]}).\nMend the file.") from error
    if not isinstance(values, dict):
        raise UserError(f"--profile {path}: a mapping of settings is needed.\nCopy a packaged one: {', '.join(packaged())}.")
    values = typed(Settings, values, f"--profile {path}")
    for name, keys in PATHS.items():
        section: Any = values.get(name)
        for key in keys if isinstance(section, dict) else ():
            given = section.get(key)
            if isinstance(given, str) and given not in get_args(AccelerateProfile):
                section[key] = str(_whole(given, path.parent))
    for name, keys in MODELS.items():
        section = values.get(name)
        for key in keys if isinstance(section, dict) else ():
            if _is_folder(section.get(key), path.parent):
                section[key] = str(_whole(section[key], path.parent))
    return values, str(path)


def _set(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {key} is not a section.\nGive it whole, or in a profile file.")
        values = inner
    values[keys[-1]] = value


def _explain(error: ValidationError, profile: str) -> UserError:
    first = error.errors()[0]
    place = [str(p) for p in first["loc"]]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = _fields(place[:-1])
        near = get_close_matches(place[-1], known, n=1)
        hint = f"did you mean {'.'.join([*place[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}."
        return UserError(f"unknown setting {key!r} (profile {profile}): {hint}")
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return UserError(f"profile {profile}: {message}.")
    return UserError(f"setting {key!r} (profile {profile}): {message}; got {str(first['input'])[:80]!r}.\nSee moslim settings.")


def _fields(place: list[str]) -> list[str]:
    model: Any = Settings
    for key in place:
        model = getattr(model, "model_fields", {}).get(key)
        model = getattr(model, "annotation", None)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
