"""What is loaded for pages, and that many who ask at once hear their own answers."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flows.cli.printed_commands import command
from flows.studio import loaded_models as module
from flows.studio.loaded_models import Opened, Workshop, newest
from flows.studio.session import Asked, Drawn
from moslim_core.errors import UserError
from moslim_core.models import chat
from moslim_core.policy.generation import Answer
from tasks.ledger.lineage import known_policies
from tasks.ledger.of_work_dir import ledger_of
from tests.studio.made import LONGEST, RUN_NAME, SCHEMA

RAIN = [{"role": "user", "content": "Rain?"}]


@pytest.fixture(scope="module")
def workshop(work_dir: Path) -> Workshop:
    return Workshop(work_dir)


@pytest.fixture(scope="module")
def opened(workshop: Workshop) -> Iterator[Opened]:
    """In float32: where the processor multiplies in bfloat16, an answer in a batch is rounded otherwise than one alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "pick_dtype", lambda *_: torch.float32)
        yield workshop.open(newest(workshop.choices()))


async def hear(opened: Opened, asked: Asked, drawn: Drawn) -> tuple[list[str], Answer]:
    heard = [item async for item in opened.answer(asked, RAIN, drawn)]
    assert isinstance(heard[-1], Answer)
    return [item for item in heard if isinstance(item, str)], heard[-1]


def test_the_registrys_name_is_taken_first_and_what_belongs_to_a_policy_is_found(workshop: Workshop, opened: Opened) -> None:
    assert [choice.reference.split("/")[0] for choice in workshop.choices()] == ["models:", "runs:"]
    assert opened.reference == "models:/policy@champion"
    assert opened.schema == SCHEMA
    found = opened.find(RAIN, "It rains.", Asked("policy", {"warmth": 2}))
    assert all(one.probabilities for one in found)
    fronts = opened.fronts()
    assert opened.lineage.settings["data"]["source"] == ["starter"] and opened.lineage.settings["seed"] == 7
    assert fronts is not None and fronts.before is not None and len(fronts.after.points) == 2


def test_policies_are_listed_by_the_name_of_their_run_and_versions_also_without_an_alias(workshop: Workshop) -> None:
    registered, trained = workshop.choices()
    run_id = trained.reference.split("/")[1]
    assert registered.title == f"policy@champion, version 1 · {RUN_NAME} · {run_id[:8]}"
    assert trained.title.startswith(f"{RUN_NAME} · {run_id[:8]} · trained 2")
    client = ledger_of(workshop.work_dir).client
    try:
        for _ in range(3):
            client.create_model_version("policy", trained.reference, run_id)
        client.set_registered_model_alias("policy", "challenger", "3")
        listed = known_policies(workshop.work_dir)
        names = [f"models:/policy{end}" for end in ("@champion", "@challenger", "/4", "/2")]
        assert [policy.reference for policy in listed] == [*names, trained.reference]
        assert listed[2].title == f"policy, version 4 · {RUN_NAME} · {run_id[:8]}"
    finally:
        for version in "234":
            client.delete_model_version("policy", version)


def test_a_policy_of_no_run_answers_without_a_reward_model_or_a_front(workshop: Workshop, policy_folder: Path, tmp_path: Path) -> None:
    import shutil

    copied = Path(shutil.copytree(policy_folder, tmp_path / "copied"))
    (copied / "note.txt").write_text("another policy")
    alone = workshop.open(str(copied))
    assert alone.lineage == (None, None, {}) and alone.fronts() is None
    assert [one.probabilities for one in alone.find(RAIN, "It rains.", Asked("policy", {}))] == [None] * 3
    with pytest.raises(UserError, match="no such folder"):
        workshop.open(str(tmp_path / "none"))


def test_a_page_without_policies_says_how_to_get_one() -> None:
    with pytest.raises(UserError, match=re.escape(command("run", "--profile", "demo"))):
        newest([])


def test_all_who_ask_at_once_hear_what_each_would_hear_alone(opened: Opened) -> None:
    asks = [
        (Asked(system, {"warmth": level}), Drawn(1.0, None, seed)) for system in ("policy", "start") for level in (1, 2) for seed in (0, 1)
    ]  # type: ignore[arg-type]

    async def together() -> list[tuple[list[str], Answer]]:
        return await asyncio.gather(*(hear(opened, *ask) for ask in asks))

    heard = asyncio.run(together())
    for (asked, drawn), (pieces, answer) in zip(asks, heard, strict=True):
        speaker = opened.voice(asked.system).speaker
        assert answer.text == "".join(pieces) == speaker.chat_batch([RAIN], [asked.targets], *drawn)[0].text
        assert answer.truncated == (answer.tokens == LONGEST)
    assert len({answer.text for _, answer in heard}) == len(asks), "systems, levels and seeds make a difference"
    assert any(len(pieces) > 3 for pieces, _ in heard), "answers stream"


def test_who_stops_listening_frees_the_place(opened: Opened) -> None:
    async def leave() -> None:
        async with contextlib.aclosing(opened.answer(Asked("policy", {}), RAIN, Drawn(1.0, 200))) as items:  # type: ignore[type-var]
            await anext(items)

    asyncio.run(leave())
    assert opened.idle
    pieces, answer = asyncio.run(hear(opened, Asked("policy", {}), Drawn(1.0, 3)))
    assert answer.tokens <= 3 and "".join(pieces) == answer.text


def test_what_can_not_be_asked_is_told_to_who_asked(opened: Opened) -> None:
    for asked, drawn, words in (
        (Asked("policy", {"warmth": 9}), Drawn(), "can't be requested"),
        (Asked("policy", {}), Drawn(0.7, 9999), "is longer than the model reads"),
        (Asked("policy", {}), Drawn(-1.0), "temperature"),
    ):
        with pytest.raises(UserError, match=words):
            asyncio.run(hear(opened, asked, drawn))
    assert opened.idle


def test_policies_not_used_lately_give_their_memory_back_and_answer_again(
    workshop: Workshop, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    other = workshop.open(workshop.choices()[1].reference)
    assert other is not opened and not opened._voices and other._voices
    assert asyncio.run(hear(opened, Asked("policy", {}), Drawn(0.0, 3)))[1].tokens <= 3
