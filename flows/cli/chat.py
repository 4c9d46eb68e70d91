"""`moslim chat`: a trained policy under stated preferences, one message or a conversation."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema, Targets

if TYPE_CHECKING:
    from moslim_core.policy.steerable import SteerablePolicy

# An answer that reaches its length goes on to the end of its sentence, by so many tokens at most.
MORE_TOKENS = 32
CUT = " [cut]"
_SENTENCE_ENDS = re.compile(r"[.!?。！？][\"')\]”’]*\s*\Z")
HELP = """/prefer NAME=LEVEL,...   what is asked for from now on, by number or in the level's words; alone: nothing
                         in particular. What it does not name is open
/levels                  the preferences, their levels, and what is asked for now
/reset                   a new conversation; what is asked for stays
/help                    this
End with /quit or Ctrl-D; Ctrl-C stops an answer."""


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
    """Answer `message`, or converse until end of input (`HELP` has its commands). Raises UserError for a level that there is not."""
    from moslim_core.policy.artifact import PolicyCard
    from moslim_core.policy.steerable import SteerablePolicy

    if message is None and sys.stdin is None:
        raise UserError("there is nothing to read messages from.\nGive one: --message TEXT")
    # Checked before the model is loaded: a wrong level should not cost half a minute.
    targets = PolicyCard.load(directory).preferences.parse_targets(prefer)
    policy = SteerablePolicy.from_pretrained(directory, cache, base=base)

    def answer(messages: Any, levels: Targets, say: Callable[[str], None]) -> str:
        return _answer(policy, messages, levels, temperature, max_new_tokens, seed, say)

    if message is not None:
        answer(message, targets, _write)
        typer.echo()
        return
    if not _converse(policy.card.preferences, targets, answer) and not sys.stdin.isatty():
        raise typer.Exit(2)


def _converse(schema: PreferenceSchema, targets: Targets, answer: Callable[[Any, Targets, Callable[[str], None]], str]) -> bool:
    """Whether every message was answered. What a pipe gets is the answers alone."""
    here, all_answered = sys.stdin.isatty(), True
    if here:
        # Its import alone gives `input` line editing and what was typed before.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
    typer.echo(f"{_levels(schema, targets)}\nChange it with /prefer; /help has the rest.", err=True)
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = input("you> " if here else "").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo(err=True)
            return all_answered
        command, _, rest = text.partition(" ")
        if command.lower() == "/prefer":
            try:
                targets = schema.parse_targets(rest)
                typer.echo(_asked(schema, targets), err=True)
            except UserError as error:
                # A slip of the pen does not cost the conversation.
                typer.echo(f"error: {error}\nAsked for as before.", err=True)
        elif command.lower() == "/levels":
            typer.echo(_levels(schema, targets), err=True)
        elif command.lower() == "/reset":
            messages = []
            typer.echo(f"A new conversation. {_asked(schema, targets)}", err=True)
        elif command.lower() in ("/quit", "/exit"):
            return all_answered
        elif command.lower() == "/help":
            typer.echo(HELP, err=True)
        elif re.fullmatch("/[A-Za-z]*", command):
            typer.echo(f"{command} is no command here.\n{HELP}", err=True)
        elif text:
            conversation = [*messages, {"role": "user", "content": text}]
            try:
                said = answer(conversation, targets, _spoken() if here else _write)
            except UserError as error:
                all_answered = False
                # A conversation that outgrew the model's context, most often.
                typer.echo(f"error: {error}\nYour last message is not part of the conversation; /reset begins a new one.", err=True)
                continue
            typer.echo()
            messages = [*conversation, {"role": "assistant", "content": said}]


def _levels(schema: PreferenceSchema, targets: Targets) -> str:
    lines = [f"{p.name}: " + ", ".join(f"{level} {p.label(level)}" for level in p.requestable) for p in schema.preferences]
    return "\n".join([*lines, _asked(schema, targets)])


def _asked(schema: PreferenceSchema, targets: Targets) -> str:
    return "Asked for: " + (", ".join(f"{name}={level} ({schema[name].label(level)})" for name, level in targets.items()) or "nothing")


def _write(piece: str) -> None:
    typer.echo(piece, nl=False)
    sys.stdout.flush()


def _spoken() -> Callable[[str], None]:
    """Writes the pieces of an answer, the first one behind its speaker: an answer that is refused has none."""
    begun = False

    def say(piece: str) -> None:
        nonlocal begun
        _write(piece if begun else f"policy> {piece}")
        begun = True

    return say


def _answer(
    policy: SteerablePolicy,
    messages: Any,
    targets: Targets,
    temperature: float,
    max_new_tokens: int | None,
    seed: int,
    say: Callable[[str], None],
) -> str:
    """The answer, said piece by piece as it is drawn, to the end of its last sentence; one that is cut all the same is marked.

    A length that a person gave is kept. Raises UserError.
    """
    from moslim_core.policy.steerable import TooLong

    limit = max_new_tokens if max_new_tokens is not None else policy.card.max_new_tokens
    more = 0 if max_new_tokens is not None else MORE_TOKENS
    text, whole = "", True

    def tokens() -> int:
        return len(policy.tokenizer(text, add_special_tokens=False)["input_ids"])

    try:
        pieces = policy.stream(messages, targets, temperature, limit + more, seed)
        first = next(pieces, "")
    except TooLong:
        # Beside a long conversation there may be no room for more.
        more = 0
        pieces = policy.stream(messages, targets, temperature, limit, seed)
        first = next(pieces, "")
    try:
        piece: str | None = first
        while piece is not None:
            text += piece
            say(piece)
            if more and _SENTENCE_ENDS.search(text) and tokens() >= limit:
                break
            piece = next(pieces, None)
        else:
            # What was tokenised anew may have a token less than what was drawn.
            whole = tokens() < limit + more - 1 or bool(_SENTENCE_ENDS.search(text))
    except KeyboardInterrupt:
        whole = False
    if not whole:
        say(CUT)
    return text
