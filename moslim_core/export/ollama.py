"""The policy for Ollama: the GGUF file, and a Modelfile with the model's turns as a Go template and a table of instructions. (ours)

The turns are read off the model's own chat template by what it writes of short conversations, and compared with it on longer ones.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.errors import UserError
from moslim_core.export.card import Record, instructions, pasted_readme, write_data_card
from moslim_core.export.folder import new_folder
from moslim_core.export.gguf_file import FILE, TYPES, adds_beginning, require_architecture, stored, write_gguf
from moslim_core.export.merged import TEMPERATURE, load_whole, weight_bytes
from moslim_core.models import DType, end_tokens
from moslim_core.policy.artifact import PolicyCard
from moslim_core.preferences import INSTRUCTION_MARKS, Message, chat_text
from moslim_core.sampling import NEUTRAL

MODELFILE = "Modelfile"
# Stand for contents; no template changes them, and none writes them by itself.
_SYSTEM, _USER, _ASSISTANT, _NEXT = "moslim says", "moslim asks", "moslim answers", "moslim goes on"
_QUOTES = '"""'


def export_ollama(policy: Path, output: Path, cache: Path, dtype: DType, base: str | None, record: Record | None) -> Path:
    """Write `policy.gguf`, a Modelfile and a README to `output`. Raises UserError as `export_gguf` does, and as `turns_of`."""
    require_architecture(PolicyCard.load(policy).start(policy, cache, base), cache)
    model, tokenizer, card = load_whole(policy, cache, "float32", base)
    turns = turns_of(tokenizer)
    with new_folder(output, weight_bytes(model, TYPES[stored(dtype)][2])) as folder:
        write_gguf(folder / FILE, model, tokenizer, card.base.name, dtype)
        stops = [*(tokenizer.convert_ids_to_tokens(number) for number in end_tokens(model, tokenizer)), *INSTRUCTION_MARKS]
        (folder / MODELFILE).write_text(modelfile(card, turns, stops), encoding="utf-8")
        title = f"For Ollama: a GGUF file ({stored(dtype)}) of `{card.base.name}` (content {card.base.digest[:12]}), adapter merged."
        (folder / "README.md").write_text(pasted_readme(card, title, _how(card), record), encoding="utf-8")
        write_data_card(folder, record)
    return output


class Turns(NamedTuple):
    """What stands before and after the content of each role's turn, where an answer begins, and what a system turn says by itself.

    `system`: None where the template has no such turn.
    """

    begin: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    default_system: str

    def written(self, messages: Sequence[Message]) -> str:
        """A conversation up to where the answer begins, as the Go template writes it."""
        if self.default_system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        marks = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}
        return self.begin + "".join(m["content"].join(marks[m["role"]]) for m in messages) + self.answer


def turns_of(tokenizer: Any) -> Turns:
    """The turns of a chat template. Raises UserError where it does not write one turn after the other.

    A token that the tokenizer puts before a text by itself is left out: so does Ollama.
    """
    user, assistant = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}
    next_user, system = {"role": "user", "content": _NEXT}, {"role": "system", "content": _SYSTEM}
    try:
        before_user, after_user = _cut(chat_text(tokenizer, [user], answered=True), _USER)
        answer = _without(chat_text(tokenizer, [user]).partition(_USER)[2], after_user)
        _, between, after_assistant = _cut(chat_text(tokenizer, [user, assistant], answered=True), _USER, _ASSISTANT)
        before_assistant = _without(between, after_user)
        _, _, answered, _ = _cut(chat_text(tokenizer, [user, assistant, next_user]), _USER, _ASSISTANT, _NEXT)
        before_next = _without(answered, after_assistant)
        if not before_user.endswith(before_next):
            raise ValueError("the first turn is written in another way than later ones")
        opening = before_user.removesuffix(before_next)
        bos = tokenizer.bos_token or ""
        # Some have the token that a text begins with begin each turn.
        begin = bos if bos and opening.startswith(bos) and not before_next.startswith(bos) else ""
        opening = opening.removeprefix(begin)
        told = _system(tokenizer, begin, before_next, [system, user])
        default = "" if not opening else _cut_default(opening, told)
        turns = Turns(begin, told, (before_next, after_user), (before_assistant, after_assistant), answer, default)
        for messages in _examples(with_system=told is not None):
            if turns.written(messages) != chat_text(tokenizer, messages):
                raise ValueError("longer conversations are written in another way than short ones")
    except (ValueError, UserError) as error:
        raise UserError(
            f"--to ollama: the model's chat template can't be said in Ollama's: {str(error).splitlines()[0]}.\n"
            "Export with --to gguf, and serve that with llama-server --jinja."
        ) from error
    return turns._replace(begin="") if adds_beginning(tokenizer) else turns


def _system(tokenizer: Any, begin: str, before_user: str, messages: list[Message]) -> tuple[str, str] | None:
    try:
        before, after, _ = _cut(chat_text(tokenizer, messages), _SYSTEM, _USER)
    except (ValueError, UserError):
        return None
    return (before.removeprefix(begin), after.removesuffix(before_user)) if after.endswith(before_user) else None


def _cut_default(opening: str, system: tuple[str, str] | None) -> str:
    if system is None or not (opening.startswith(system[0]) and opening.endswith(system[1])):
        raise ValueError("it begins with text of its own")
    return opening[len(system[0]) : len(opening) - len(system[1])]


def _cut(text: str, *contents: str) -> list[str]:
    """The text between contents, each of which stands there once. Raises ValueError."""
    parts = []
    for content in contents:
        before, separator, text = text.partition(content)
        if not separator or content in text:
            raise ValueError("it does not write each message once")
        parts.append(before)
    return [*parts, text]


def _without(text: str, beginning: str) -> str:
    if not text.startswith(beginning):
        raise ValueError("a turn's end depends on what follows")
    return text[len(beginning) :]


def _examples(with_system: bool) -> Iterable[list[Message]]:
    talk = [{"role": role, "content": f"{role} says:\n\nno. {n} ({n * n})."} for n, role in enumerate(("user", "assistant") * 3)]
    for length in (1, 3, 5):
        yield talk[:length]
        if with_system:
            yield [{"role": "system", "content": "Be kind.\nAlways."}, *talk[:length]]


def modelfile(card: PolicyCard, turns: Turns, stops: Sequence[str]) -> str:
    """What `ollama create` reads."""
    roles = [("user", turns.user), ("assistant", turns.assistant), *([("system", turns.system)] if turns.system else [])]
    branches = "{{ else ".join(
        f'{{{{ if eq .Role "{role}" }}}}{_go(before)}{{{{ .Content }}}}{_go(after)}' for role, (before, after) in roles
    ).replace("{{ else {{ if", "{{ else if")
    template = f"{_go(turns.begin)}{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}{_go(turns.answer)}"
    drawn = {
        "temperature": TEMPERATURE,
        "top_k": 0,
        "top_p": NEUTRAL["top_p"],
        "min_p": 0.0,
        "repeat_penalty": NEUTRAL["repetition_penalty"],
    }
    table = [f"#   {name} {level}: {text}" for name, level, text in instructions(card.preferences)]
    lines = [
        f"FROM ./{FILE}",
        "",
        f"TEMPLATE {_QUOTES}{template}{_QUOTES}",
        *([f"SYSTEM {_QUOTES}{turns.default_system}{_QUOTES}"] if turns.default_system else []),
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        # Answers were learnt and measured with plain draws; Ollama's own defaults are others.
        *(f"PARAMETER {name} {value}" for name, value in drawn.items()),
        "",
        f"# What asks for a level; README.md says where it is pasted ({card.placement}).",
        *table,
    ]
    return "\n".join(lines) + "\n"


def _go(text: str) -> str:
    """Plain text as a Go template and a Modelfile have it."""
    return text.replace("{{", '{{ "{{" }}').replace(_QUOTES, '{{ "\\"\\"\\"" }}')


def _how(card: PolicyCard) -> str:
    _, _, text = list(instructions(card.preferences))[-1]
    question = "How do bees make honey?"
    if card.placement == "system":
        messages = [{"role": "system", "content": text}, {"role": "user", "content": question}]
        said = f"curl http://localhost:11434/api/chat -d {shlex.quote(json.dumps({'model': 'policy', 'messages': messages}))}"
    else:
        prompt = f"{text}\n\n{question}" if card.placement == "user_prefix" else f"{question}\n\n{text}"
        said = f"ollama run policy {shlex.quote(prompt)}"
    return f"```sh\nollama create policy -f {MODELFILE}\n{said}\n```"
