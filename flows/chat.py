"""`moslim chat`: a trained policy under stated preferences, one message or a conversation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from moslim_core.errors import UserError


def talk(
    directory: Path,
    prefer: str,
    message: str | None,
    temperature: float,
    max_new_tokens: int | None,
    seed: int,
    cache: Path,
    base: str | None = None,
) -> None:
    """Answer `message`, or converse until end of input. In a conversation `/prefer NAME=LEVEL,...` changes what is asked for."""
    from moslim_core.policy.artifact import PolicyCard
    from moslim_core.policy.steerable import SteerablePolicy

    # Checked before the model is loaded: a wrong level should not cost half a minute.
    targets = PolicyCard.load(directory).preferences.parse_targets(prefer)
    policy = SteerablePolicy.from_pretrained(directory, cache, base=base)

    def answer(messages: Any) -> str:
        return policy.chat(messages, targets, temperature, max_new_tokens, seed)

    if message is not None:
        typer.echo(answer(message))
        return
    schema = policy.card.preferences
    levels = "; ".join(f"{p.name} {p.floor}..{p.k}" for p in schema.preferences)
    typer.echo(f"Preferences: {levels}. Change them with /prefer NAME=LEVEL,... ; end with Ctrl-D.", err=True)
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = input("you> ").strip()
        except EOFError:
            return
        command, _, rest = text.partition(" ")
        if command.lower() == "/prefer":
            try:
                targets = schema.parse_targets(rest)
            except UserError as error:
                # A slip of the pen does not cost the conversation.
                typer.echo(f"error: {error}\nAsked for as before.", err=True)
        elif re.fullmatch("/[A-Za-z]+", command):
            typer.echo(f"{command} is no command here. Change what is asked for with /prefer NAME=LEVEL,...", err=True)
        elif text:
            asked = [*messages, {"role": "user", "content": text}]
            try:
                said = answer(asked)
            except UserError as error:
                # A conversation that outgrew the model's context, most often.
                typer.echo(f"error: {error}\nYour last message is not part of the conversation.", err=True)
                continue
            messages = [*asked, {"role": "assistant", "content": said}]
            typer.echo(f"policy> {said}")
