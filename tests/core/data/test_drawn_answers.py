"""Answers under wishes: every level is asked for, what is killed goes on, what is written the label stage takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows import profile
from flows.cli import sample
from moslim_core.data.annotation import Annotation, RuleAnnotators
from moslim_core.data.drawn_answers import BATCH_PROMPTS, draw, spread, wished, wishes
from moslim_core.data.preview import preview
from moslim_core.errors import UserError
from moslim_core.preferences import Message
from moslim_core.settings_section import changed
from tests.core.chat_server import Reply, Request, says, serving

DEMO = profile.load("demo")
SCHEMA = DEMO.preferences


def prompts(count: int) -> list[list[Message]]:
    return [[{"role": "user", "content": f"What is thing number {n}?"}] for n in range(count)]


def annotation() -> Annotation:
    return Annotation([RuleAnnotators(SCHEMA)], SCHEMA, 0)


class Echo:
    """Says a different sentence each time; stops at the call `dies`."""

    def __init__(self, dies: int = 10**9) -> None:
        self.dies = dies
        self.asked: list[Sequence[list[Message]]] = []

    def __call__(self, conversations: Sequence[list[Message]], seed: int) -> list[tuple[str, bool]]:
        if len(self.asked) == self.dies:
            raise KeyboardInterrupt
        self.asked.append(conversations)
        return [(f"I say {seed} and {n}. And then", False) for n in range(len(conversations))]


def test_every_level_is_wished_for_equally_often() -> None:
    of = wishes(SCHEMA, 22, 5, seed=3)
    counted = Counter(wish for own in of for wish in own)
    assert set(counted) == {label for p in SCHEMA.preferences for label in p.levels}
    assert len(set(counted.values())) == 1
    assert wished(prompts(1)[0], "short")[0]["content"].endswith("Answer style: short.")


def test_what_is_killed_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    asked = prompts(3 * BATCH_PROMPTS)
    whole, _ = draw(asked, SCHEMA, 2, Echo(), annotation(), tmp_path / "whole.jsonl", 0, {})
    with pytest.raises(KeyboardInterrupt):
        draw(asked, SCHEMA, 2, Echo(dies=2), annotation(), tmp_path / "rows.jsonl", 0, {})
    assert not (tmp_path / "rows.jsonl").exists()
    with pytest.raises(UserError, match="other prompts or settings"):
        draw(asked, SCHEMA, 3, Echo(), annotation(), tmp_path / "rows.jsonl", 0, {})
    again = Echo()
    rows, _ = draw(asked, SCHEMA, 2, again, annotation(), tmp_path / "rows.jsonl", 0, {})
    assert len(again.asked) == 1 and rows == whole
    assert (tmp_path / "rows.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["rows.jsonl", "whole.jsonl"]


def test_cut_sentences_loops_and_silence_are_left_out(tmp_path: Path) -> None:
    said = [("It is so. And th", False), ("No end", False), ("", True), ("a b c " * 9, True), ("It is so. And", False), ("Fine", True)]
    rows, dropped = draw(prompts(1), SCHEMA, 6, lambda c, s: said, annotation(), tmp_path / "rows.jsonl", 0, {})
    assert [row.response for row in rows] == ["It is so.", "Fine"]
    assert dropped == {"breaks off": 1, "no answer": 1, "loops": 1, "said before": 1}
    assert sum(spread(rows, SCHEMA)["verbosity"]) == 2


def test_rows_of_an_endpoint_are_taken_by_the_label_stage(tmp_path: Path, tiny_chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "prompts.jsonl", tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": p[0]["content"]}) + "\n" for p in prompts(30)))
    settings = changed(DEMO, work_dir=tmp_path / "work", model=changed(DEMO.model, base=str(tiny_chat)))
    with serving(lambda request: says(f"It is {request.asked.replace('?', '')}")) as server:
        sample.sample(settings, "demo", [], file, 4, output, (server.url, "m"))
    assert all("response_format" not in request.body for request in server.requests)
    assert len(server.requests) == 120
    told = capsys.readouterr().out
    assert "too few" in told and "label --profile demo --set data.source=jsonl" in told
    reading = profile.override(settings, ["data.source=jsonl", f"data.path={output}", "policy.max_prompt_tokens=400"])
    found = preview(reading, tmp_path / "cache")
    written = len(output.read_text().splitlines())
    # The server says the same to the same wish, which a prompt may get twice.
    assert 110 < written <= 120 and sum(found.rows.values()) == written and found.refused is None


def test_prompts_may_be_lines_of_a_text_and_where_no_answer_can_be_used_nothing_is_left(
    tmp_path: Path, tiny_chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "prompts.txt", tmp_path / "rows.jsonl"
    file.write_text("What is rain?\n\nWhy is it wet?\n")
    settings = changed(DEMO, work_dir=tmp_path / "work", model=changed(DEMO.model, base=str(tiny_chat)))
    with serving(lambda request: says("")) as server, pytest.raises(UserError, match="none of the answers can be used: 4 x no answer"):
        sample.sample(settings, "demo", [], file, 2, output, (server.url, "m"))
    assert not output.exists()
    with serving(lambda request: says(f"It is {request.asked}.")) as server:
        sample.sample(settings, "demo", [], file, 2, output, (server.url, "n"), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == len(output.read_text().splitlines()) == sum(of["rows"] for of in told["levels"] if of["preference"] == "warmth")
    assert {json.loads(line)["prompt"] for line in output.read_text().splitlines()} == {"What is rain?", "Why is it wet?"}


def test_of_an_answer_that_the_endpoint_cut_the_whole_sentences_are_kept_however_it_ends(tmp_path: Path, tiny_chat: Path) -> None:
    file, output = tmp_path / "prompts.txt", tmp_path / "rows.jsonl"
    file.write_text("What is rain?\nWhat is snow?\n")
    settings = changed(DEMO, work_dir=tmp_path / "work", model=changed(DEMO.model, base=str(tiny_chat)))

    def behave(request: Request) -> Reply:
        cut = "rain" in request.asked
        reply = says("It is water. It falls (often)" if cut else "Frozen rain, without a point at its end")
        reply.body["choices"][0]["finish_reason"] = "length" if cut else "stop"
        return reply

    with serving(behave) as server:
        sample.sample(settings, "demo", [], file, 1, output, (server.url, "m"))
    rows = {row["prompt"]: row["response"] for row in map(json.loads, output.read_text().splitlines())}
    assert rows == {"What is rain?": "It is water.", "What is snow?": "Frozen rain, without a point at its end"}


def test_who_could_say_levels_is_named(tmp_path: Path) -> None:
    three = profile.load("three-h", ["data.path=nowhere.jsonl", f"work_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"annotation.fill=reward_model"):
        sample.sample(three, "three-h", [], tmp_path / "p.jsonl", 4, tmp_path / "rows.jsonl", None)
