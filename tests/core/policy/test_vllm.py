"""Answers that a server draws: under the adapter as it is now, weighted by how probable the policy finds them; what it can't is told."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moslim_core import models
from moslim_core.errors import UserError
from moslim_core.policy.engines import Drawn, engine_class, pick
from moslim_core.policy.log_probs import completion_log_probs
from moslim_core.policy.rollouts import padded
from moslim_core.policy.settings import PolicySettings
from moslim_core.policy.steps import MOST_IMPORTANCE
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.sampling import generation_config
from tests.core.policy import recorded_run
from tests.core.policy.recorded_run import loaded, made_learner, settings, update
from tests.core.policy.runs import OPTIMISERS, metrics, train, write_rows
from tests.core.policy.vllm_server import Server, serving

PROMPTS = [[5, 6, 7], [9, 10], [5, 6, 7]]
NO_MAPPING: Any = RewardMapping


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_two_steps_of_training(optimiser: str, tiny_chat: Path, reward_folder: Path, tmp_path: Path) -> None:
    with serving(tiny_chat) as server:
        more = {"optimiser": optimiser, "beta": 0.1, "steps": 2, "vllm_url": server.url, "group_size": 2}
        train(tmp_path, tiny_chat, reward_folder, "output", {"standardisation": "none"}, **more)
        paths = [asked["path"].rpartition("/")[2] for asked in server.asked]
        assert paths == ["load_lora_adapter", "completions", "load_lora_adapter", "unload_lora_adapter", "completions"]
        first, second = (asked for asked in server.asked if asked["path"] == "/v1/completions")
        assert first["model"] != second["model"] and list(server.adapted) == [second["model"]]
        assert (first["logprobs"], first["return_token_ids"], first["top_k"], first["top_p"]) == (0, True, -1, 1.0)
        # The first folder is gone; its adapter was the base's own policy, and the second is not.
        served = dict(server.adapted[second["model"]].named_parameters())
        assert any(p.any() for name, p in served.items() if "lora_B" in name)
    found = metrics(tmp_path, "output")
    assert abs(found[1]["kl"]) < 1e-6 and all(found[step]["grad_norm"] > 0 for step in (1, 2))
    assert all(values["own_weight"] == pytest.approx(1, abs=1e-4) for values in found.values()), "it draws from the policy itself"
    assert any(v.any() for k, v in load_file(tmp_path / "output" / "adapter_model.safetensors").items() if "lora_B" in k)


def drawing(server: Server | None, base: Path, temperature: float = 0.0, **more: Any) -> Any:
    policy = PolicySettings(**(more | {"vllm_url": server.url if server else more["vllm_url"], "lora_layers": 1, "max_new_tokens": 6}))
    learner, tokenizer, _ = made_learner(base, policy, NO_MAPPING)
    config = generation_config(models.end_tokens(learner.plain, tokenizer), tokenizer.pad_token_id, temperature, max_new_tokens=6)
    engine, said = pick(learner, policy, config)
    assert isinstance(engine, engine_class("vllm")) and said is None, "auto takes the server that is named"
    return engine


def test_answers_are_those_of_the_adapted_weights_with_their_probabilities(tiny_chat: Path) -> None:
    with serving(tiny_chat) as server:
        engine = drawing(server, tiny_chat)
        found: Drawn = engine.draw(PROMPTS)
        plain = engine_class("transformers")(engine.learner, engine.policy, engine.config)
        assert found.answers == plain.draw(PROMPTS).answers and found.answers[0] == found.answers[2] != found.answers[1]
        base, _ = loaded(tiny_chat)
        ids = torch.tensor([PROMPTS[0]])
        untouched = base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=engine.config)
        assert found.answers[0] != untouched[0, len(PROMPTS[0]) :].tolist(), "the base alone would say something else"
        answers, mask = padded(found.answers, "cpu")
        with torch.no_grad():
            expected = completion_log_probs(engine.learner.model, PROMPTS, answers, mask).log_probs
        assert found.log_probs is not None
        for row, chances in enumerate(found.log_probs):
            assert chances == pytest.approx(expected[row, : len(chances)].tolist(), abs=1e-4)


def test_answers_to_one_prompt_differ(tiny_chat: Path) -> None:
    """The server begins each prompt of a call with the same random numbers: those to one prompt are asked for together."""
    one, other, third = [5, 6, 7], [9, 10], [8]
    with serving(tiny_chat) as server:
        found = drawing(server, tiny_chat, temperature=1.0).draw([one, other, one, third, one, other])
        asked = {body["n"]: body["prompt"] for body in server.asked if body["path"] == "/v1/completions"}
        assert asked == {3: [one], 2: [other], 1: [third]}
    assert len({tuple(found.answers[n]) for n in (0, 2, 4)}) == 3 and found.answers[1] != found.answers[5]
    assert [len(chances) for chances in found.log_probs or ()] == [len(ids) for ids in found.answers]


@pytest.mark.parametrize("off", [0.0, -50.0, 50.0])
def test_an_answer_counts_by_how_probable_the_policy_finds_it(
    off: float, tiny_chat: Path, reward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server gives the policy's own probabilities, once; where it thought an answer rarer, more, but not without bound."""
    write_rows(tmp_path)
    with serving(tiny_chat) as server:
        server.off = off
        policy = settings("rloo", "plain", vllm_url=server.url, group_size=2)
        config = generation_config([2], 0, 1.0, max_new_tokens=6)
        monkeypatch.setattr(recorded_run, "Recorded", lambda learner, policy, _: engine_class("vllm")(learner, policy, config))
        found = update(tiny_chat, RewardScorer.load(reward_folder), tmp_path / "train.jsonl", policy)
    expected = {0.0: 1.0, -50.0: MOST_IMPORTANCE, 50.0: 0.0}[off]
    assert torch.allclose(found.batch.weight, torch.full_like(found.batch.weight, expected), atol=1e-4)
    assert found.figures["own_weight"] == pytest.approx(expected, abs=1e-4)


def test_server_that_is_not_there(tiny_chat: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
        UserError, match=r"no answer \(ConnectError\)\.\nStart the server: VLLM_ALLOW_RUNTIME_LORA_UPDATING=true vllm serve"
    ):
        drawing(None, tiny_chat, vllm_url=url)


def test_server_that_refuses_the_adapter(tiny_chat: Path) -> None:
    with serving(tiny_chat, rank=1) as server:
        engine = drawing(server, tiny_chat)
        with pytest.raises(UserError, match=r"/v1/load_lora_adapter was refused \(400\): LoRA rank is greater than max_lora_rank 1"):
            engine.draw(PROMPTS)


def test_server_that_gives_no_token_ids(tiny_chat: Path) -> None:
    with serving(tiny_chat, tokens=False) as server:
        engine = drawing(server, tiny_chat)
        with pytest.raises(UserError, match=r"the server gives no token ids\.\nServe with vLLM 0\.10\.2 or later"):
            engine.draw(PROMPTS)
