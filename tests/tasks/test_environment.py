"""What a process sets for its libraries before they work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.surroundings import environment


def test_keys_that_heads_share_are_taken_as_they_are_and_give_the_same_numbers(tiny_chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_chat)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    ids = torch.arange(24).view(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    repeated: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, key: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        repeated.append(key.shape[1])
        return plain(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    found = []
    for forced in (False, True):
        for name, value in environment.ON_CPU.items():
            monkeypatch.setenv(name, value if forced else "0")
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits[mask.bool()].square().mean().backward()
        found.append((logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert repeated == [model.config.num_attention_heads] * 2 + [model.config.num_key_value_heads] * 2
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_only_machines_without_a_gpu_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in (True, False):
        monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in environment.ON_CPU})
        monkeypatch.setattr(environment, "has_accelerator", lambda gpu=gpu: gpu)
        environment.point(tmp_path)
        assert all((name in os.environ) is not gpu for name in environment.ON_CPU)
