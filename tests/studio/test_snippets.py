"""Commands that ask the same elsewhere."""

from __future__ import annotations

import shlex

import pytest
from typer.testing import CliRunner

from flows.cli import commands, policy_commands
from flows.cli.printed_commands import called
from flows.studio import snippets
from flows.studio.session import Drawn
from tests.studio.made import SCHEMA

ODD = 'What\'s "rain" -- $HOME `date`\nand #snow?'
ONE = [{"role": "user", "content": ODD}]
TALK = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "Yes."}, *ONE]
TARGETS = {"verbosity": 3, "warmth": 1}


def test_the_chat_command_gives_chat_what_the_page_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr("flows.cli.chat.talk", lambda *given: said.extend(given))
    monkeypatch.setattr(policy_commands, "opened", lambda reference, work_dir: (work_dir, reference))
    words = shlex.split(snippets.chat("models:/a b@champion", ONE, TARGETS, Drawn(0.4, 9, 5), "/w d", "/base"))
    before = shlex.split(called())
    assert words[: len(before)] == before
    result = CliRunner().invoke(commands.app, words[len(before) :])
    assert result.exit_code == 0, result.output
    folder, prefer, message, temperature, longest, seed, _, base = said
    assert (folder, message, temperature, longest, seed, base) == ("models:/a b@champion", ODD, 0.4, 9, 5, "/base")
    assert dict(SCHEMA.parse_targets(str(prefer))) == TARGETS
    assert snippets.chat("p", TALK, {}, Drawn(), "w").startswith("# The last message only")


def test_the_program_asks_the_policy_what_the_page_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from moslim_core.policy.steerable import SteerablePolicy

    asked: list[object] = []

    class Asked:
        def chat(self, *given: object, **options: object) -> str:
            asked.extend((*given, options))
            return ""

    monkeypatch.setattr(SteerablePolicy, "from_pretrained", lambda folder, base=None: asked.extend((folder, base)) or Asked())
    exec(snippets.python("/a 'b", TALK, TARGETS, Drawn(0.0, None, 5), "/base"), {"print": lambda text: None})
    assert asked == ["/a 'b", "/base", TALK, TARGETS, {"temperature": 0.0, "max_new_tokens": None, "seed": 5}]


def test_the_request_is_one_that_the_server_reads() -> None:
    from flows.serve.request import Offer, read

    copied = snippets.curl("p", TALK, TARGETS, Drawn(0.4, 9, 5))
    assert f"{called()} serve --policy p" in copied
    *_, data = shlex.split(copied, comments=True)
    asked = read(data.encode(), Offer("moslim", SCHEMA, 24, 99))
    assert (asked.messages, dict(asked.targets), asked.temperature, asked.max_tokens, asked.seed) == (TALK, TARGETS, 0.4, 9, 5)
