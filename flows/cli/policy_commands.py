"""The command line's use of a trained policy: talk to it, serve it, try it in a browser, export it, make it the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import BaseOption, PolicyOption, WorkDirOption, home_of, of_runs, opened, user_errors
from tasks.surroundings import environment

NameOption = Annotated[str, typer.Option("--name", help="the policy's name in MLflow's registry")]
WhyOption = Annotated[str, typer.Option("--why", help="the reason, which stays on record")]


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    for command in (chat, studio, serve, export, promote, rollback):
        app.command()(command)


@user_errors
def chat(
    policy: PolicyOption,
    prefer: Annotated[str, typer.Option(help="what is asked for, e.g. verbosity=1,warmth=3")] = "",
    message: Annotated[str | None, typer.Option(help="one message to answer; without it, a conversation")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="sampling temperature; 0 is greedy")] = 0.7,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="longest answer, in tokens; default: as trained")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    base: BaseOption = None,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Talk to a trained policy under stated preferences."""
    from flows.cli.chat import talk

    home, folder = opened(policy, work_dir)
    talk(folder, prefer, message, temperature, max_new_tokens, seed, environment.model_cache(home), base)


@user_errors
def studio(
    policy: Annotated[
        str | None, typer.Option("--policy", help="a folder, runs:/... or models:/name@alias; default: the champion, else the newest")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; any but loopback lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8090,
    base: BaseOption = None,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """A page in the browser: ask a policy at any levels, see what was obtained, and rate answers for the next training."""
    from flows.studio.server import require_nicegui, serve

    require_nicegui()
    serve(home_of(policy, work_dir), policy, host, port, base)


@user_errors
def serve(
    policy: PolicyOption,
    host: Annotated[str, typer.Option(help="address to listen on; others than loopback let other machines ask")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free")] = 8000,
    name: Annotated[str, typer.Option(help="the model's name, by which clients ask for it")] = "moslim",
    concurrency: Annotated[int, typer.Option(min=1, help="answers that are drawn together")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="requests that may wait beside them; more are turned away (429)")] = 64,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="the longest answer that may be asked for, in tokens; default: 1024, or half the context"),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="an OpenAI-compatible server that runs the policy; this one then writes the instructions"),
    ] = None,
    upstream_model: Annotated[str | None, typer.Option("--upstream-model", help="the policy's name there")] = None,
    base: BaseOption = None,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Serve a trained policy to OpenAI's clients, with targets in the request, until Ctrl-C. A key: MOSLIM_SERVE_API_KEY."""
    from flows.serve.command import Limits, run_server

    home, folder = opened(policy, work_dir)
    behind = None if upstream is None and upstream_model is None else (upstream, upstream_model)
    limits = Limits(concurrency, queue, max_tokens)
    run_server(folder, host, port, name, limits, behind, environment.model_cache(home), base)


@user_errors
def export(
    to: Annotated[
        str, typer.Option(help="of a policy: merged (transformers, vLLM), gguf, ollama, hub; of a reward model: classifier, rewardbench")
    ],
    policy: Annotated[str | None, typer.Option("--policy", help="a folder, runs:/... or models:/name@alias")] = None,
    reward: Annotated[str | None, typer.Option("--reward", help="a folder, runs:/... or models:/name@alias")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="a new folder; with --to hub only to keep what is pushed")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: auto (as the base's; gguf: float16), float32, bfloat16, float16")] = "auto",
    base: BaseOption = None,
    repo: Annotated[str | None, typer.Option("--repo", metavar="OWNER/NAME", help="with --to hub: the repository, made if need be")] = None,
    public: Annotated[bool, typer.Option("--public", help="with --to hub: for everybody; else private")] = False,
    input: Annotated[Path | None, typer.Option("--input", help="with --to rewardbench: rows with prompt, chosen, rejected")] = None,
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Write a policy or a reward model in a form that others open with nothing of this project."""
    from flows.cli.export import export_model

    export_model(to, policy, reward, output, dtype, base, repo, public, input, work_dir)


@user_errors
def promote(
    policy: PolicyOption,
    name: NameOption = "policy",
    why: WhyOption = "by hand",
    work_dir: WorkDirOption = Path(".moslim"),
) -> None:
    """Make a trained policy the champion: models:/NAME@champion."""
    from flows.cli.releases import promote_policy

    promote_policy(home_of(policy, work_dir), policy, name, why)


@user_errors
def rollback(name: NameOption = "policy", why: WhyOption = "by hand", work_dir: WorkDirOption = Path(".moslim")) -> None:
    """Make the champion before this one the champion again."""
    from flows.cli.releases import roll_back

    roll_back(of_runs(work_dir), name, why)
