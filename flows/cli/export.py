"""`moslim export`: a trained policy or reward model in a form that others open with nothing of this project installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import typer

from flows.cli.options import opened
from moslim_core.errors import UserError
from tasks.surroundings import environment

POLICY_FORMS = ("merged", "gguf", "ollama", "hub")
REWARD_FORMS = ("classifier", "rewardbench")
FORMS = (*POLICY_FORMS, *REWARD_FORMS)


def export_model(
    to: str,
    policy: str | None,
    reward: str | None,
    output: Path | None,
    dtype: str,
    base: str | None,
    repo: str | None,
    public: bool,
    pairs: Path | None,
    work_dir: Path,
) -> None:
    """Write one form of a model to a new folder, or push it. Raises UserError for what does not go together, before anything is loaded."""
    from moslim_core.export.folder import require_new
    from moslim_core.models import DType

    if to not in FORMS:
        raise UserError(f"--to {to!r} is no form.\nGive one of: {', '.join(FORMS)}.")
    of_reward = to in REWARD_FORMS
    reference, other = (reward, policy) if of_reward else (policy, reward)
    if reference is None or other is not None:
        needed, model = ("--reward", "reward model") if of_reward else ("--policy", "policy")
        raise UserError(f"--to {to} is a form of a {model}.\nGive {needed} REF, and nothing else to export.")
    if dtype not in get_args(DType):
        raise UserError(f"--dtype {dtype!r} is none.\nGive one of: {', '.join(get_args(DType))}.")
    for option, given, form in (("--repo", repo, "hub"), ("--public", public or None, "hub"), ("--input", pairs, "rewardbench")):
        if given is not None and to != form:
            raise UserError(f"{option} goes with --to {form}.\nLeave it out, or give --to {form}.")
    if output is None and to != "hub":
        raise UserError(f"--to {to}: no folder is named.\nGive one that is not there yet: --output FOLDER.")
    if output is not None:
        output = require_new(output)
    home, folder = opened(reference, work_dir)
    if of_reward:
        _reward_model(to, folder, output, pairs)
    else:
        _policy(to, folder, output, environment.model_cache(home), dtype, base, repo, public, home)


def _reward_model(to: str, folder: Path, output: Any, pairs: Path | None) -> None:
    from moslim_core.export.classifier import export_classifier
    from moslim_core.export.rewardbench import export_scores

    if to == "classifier":
        _say(export_classifier(folder, output))
    elif pairs is None:
        raise UserError("--to rewardbench: no pairs are named.\nGive JSON lines with prompt, chosen and rejected: --input FILE.")
    else:
        _say(export_scores(folder, pairs, output))


def _policy(
    to: str, folder: Path, output: Any, cache: Path, dtype: Any, base: str | None, repo: str | None, public: bool, home: Path
) -> None:
    from moslim_core.export import gguf_file, hub, merged, ollama
    from moslim_core.policy.artifact import PolicyCard
    from tasks.ledger.export_facts import record_of

    PolicyCard.load(folder)
    repo = hub.require_access(repo, public) if to == "hub" else None
    places = [home, cache, Path.home(), Path.cwd(), *([Path(base)] if base and os.path.isdir(base) else [])]
    record = record_of(folder, home, places)
    if repo is not None:
        address = merged.publish(folder, output, cache, dtype, base, record, lambda whole: hub.push(whole, repo, public, places))
        typer.echo(f"{address}: {'public' if public else 'private'}. Its README.md says how to open it.")
        if output is not None:
            _say(output)
        return
    export = {"merged": merged.export_merged, "gguf": gguf_file.export_gguf, "ollama": ollama.export_ollama}[to]
    _say(export(folder, output, cache, dtype, base, record))


def _say(output: Path) -> None:
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    readme = " README.md in it says how to open it." if (output / "README.md").is_file() else ""
    typer.echo(f"{output}: {size / 1e6:,.1f} MB.{readme}")
