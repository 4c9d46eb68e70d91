"""What the page asked for, as a command or a program: it gives the same answer where the same policy is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from flows.cli.printed_commands import command
from flows.studio.session import Drawn, Targets
from moslim_core.preferences import Message

# Where `moslim serve` listens unless told otherwise, and what it calls the policy.
ADDRESS, MODEL = "http://127.0.0.1:8000/v1/chat/completions", "moslim"


def chat(reference: str, messages: Sequence[Message], targets: Targets, drawn: Drawn, work_dir: str, base: str | None = None) -> str:
    """A `moslim chat` command. It takes one message: of a conversation the last, which is said."""
    prefer = ",".join(f"{name}={level}" for name, level in targets.items())
    parts = ["--policy", reference, "--work-dir", work_dir, *(["--prefer", prefer] if prefer else [])]
    parts += ["--temperature", f"{drawn.temperature:g}", "--seed", str(drawn.seed)]
    parts += ["--base", base] if base else []
    parts += ["--max-new-tokens", str(drawn.max_new_tokens)] if drawn.max_new_tokens else []
    asked = command("chat", *parts, f"--message={messages[-1]['content']}")
    return asked if len(messages) == 1 else f"# The last message only: moslim chat begins a conversation of its own.\n{asked}"


def python(folder: str, messages: Sequence[Message], targets: Targets, drawn: Drawn, base: str | None = None) -> str:
    """A program on `SteerablePolicy`."""
    said: str | list[Message] = messages[0]["content"] if len(messages) == 1 else list(messages)
    options = f"temperature={drawn.temperature:g}, max_new_tokens={drawn.max_new_tokens}, seed={drawn.seed}"
    loaded = f"{folder!r}" + (f", base={base!r}" if base else "")
    return (
        "from moslim_core.policy.steerable import SteerablePolicy\n\n"
        f"policy = SteerablePolicy.from_pretrained({loaded})\n"
        f"print(policy.chat({said!r}, {targets!r}, {options}))"
    )


def curl(reference: str, messages: Sequence[Message], targets: Targets, drawn: Drawn) -> str:
    """A request to `moslim serve`, in the form of OpenAI's chat completions."""
    body = {
        "model": MODEL,
        "messages": list(messages),
        "preferences": targets,
        "temperature": drawn.temperature,
        "seed": drawn.seed,
        **({"max_tokens": drawn.max_new_tokens} if drawn.max_new_tokens else {}),
    }
    served = f"# Answered where this runs: {command('serve', '--policy', reference)}"
    return f"{served}\ncurl {ADDRESS} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
