"""The multi-head model on an encoder and on a decoder: input, pooling, layers, and a round trip over disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from moslim_core import registry
from moslim_core.errors import UserError
from moslim_core.models import layer_stack
from moslim_core.preferences import PreferenceSchema
from moslim_core.reward.model import MultiHeadRewardModel, create, encode, pool
from moslim_core.reward.scorer import RewardScorer

SCHEMA = PreferenceSchema.model_validate([{"name": "x", "levels": ["a", "b"]}, {"name": "y", "levels": ["a", "b", "c", "d"], "floor": 2}])
QUESTIONS = ["How do I bake bread?", "Rain or snow?", "Please write a short answer about the river. " * 9, "?"]
ANSWERS = ["Mix flour, water and yeast.", "Rain.", "Snow.", "The quick brown fox jumps over the lazy dog. " * 9]


@pytest.fixture(params=["tiny_encoder", "tiny_chat"])
def backbone(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_pair_is_encoded_as_the_encoder_knows_it_with_the_answer_first(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    found = encode(tokenizer, ["rain and snow"], ["good"], 32)
    assert tokenizer.convert_ids_to_tokens(found["input_ids"][0]) == ["[CLS]", "good", "[SEP]", "rain", "and", "snow", "[SEP]"]
    assert found["token_type_ids"] == [[0, 0, 0, 1, 1, 1, 1]]


def test_decoder_reads_plain_roles_and_an_end(tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    found = encode(tokenizer, ["rain"], ["snow"], 64)
    assert tokenizer.decode(found["input_ids"][0]) == "Question: rain\n\nAnswer: snow<|im_end|>"
    assert "token_type_ids" not in found


def test_special_tokens_that_somebody_wrote_are_text(backbone: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    for said in ("rain [CLS]", "rain [PAD] [PAD] [PAD] [PAD]", "[SEP] rain <|im_end|>", "<|pad|> rain"):
        question, answer = (encode(tokenizer, *pair, 64)["input_ids"][0] for pair in (([said], ["rain"]), (["rain"], [said])))
        plain = encode(tokenizer, ["rain"], ["rain"], 64)["input_ids"][0]
        for ids in (question, answer):
            assert [i for i in ids if i in tokenizer.all_special_ids] == [i for i in plain if i in tokenizer.all_special_ids]
            assert len(ids) > len(plain)


def test_decoder_reads_what_its_tokenizer_begins_a_text_with(tiny_chat: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    plain = encode(tokenizer, ["rain"], ["snow"], 64)["input_ids"][0]
    beginning = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", beginning)])
    assert encode(tokenizer, ["rain"], ["snow"], 64)["input_ids"][0] == [beginning, *plain]
    assert len(encode(tokenizer, ["rain " * 40], ["snow " * 40], 16)["input_ids"][0]) == 16


def cut(folder: Path, question: str, answer: str, max_length: int) -> tuple[list[str], list[str]]:
    """(question, answer) as what is left of them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.convert_ids_to_tokens(encode(tokenizer, [question], [answer], max_length)["input_ids"][0])
    assert len(tokens) <= max_length
    end = tokens.index("[SEP]")
    return tokens[end + 1 : -1], tokens[1:end]


def test_too_long_a_question_loses_its_start_and_never_the_answer(tiny_encoder: Path) -> None:
    # 16 - 3 special tokens - 2 of the answer leave 11 for the question's end.
    assert cut(tiny_encoder, "snow " * 50 + "river", "good rain", 16) == (["snow"] * 10 + ["river"], ["good", "rain"])


def test_too_long_an_answer_leaves_a_quarter_to_the_question(tiny_encoder: Path) -> None:
    # 19 - 3 = 16 tokens of text: 4 for the question's end, 12 for the answer's start.
    answer = "good " + "rain " * 50
    assert cut(tiny_encoder, "snow " * 50 + "river", answer, 19) == (["snow"] * 3 + ["river"], ["good"] + ["rain"] * 11)
    # A question shorter than its quarter leaves the rest to the answer.
    assert cut(tiny_encoder, "snow", answer, 19) == (["snow"], ["good"] + ["rain"] * 14)


def test_no_encoded_row_is_longer_than_allowed(backbone: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    texts = ["", "rain", "rain " * 7, "rain " * 40]
    for q in texts:
        for a in texts:
            assert len(encode(tokenizer, [q], [a], 16)["input_ids"][0]) <= 16


def test_pooling() -> None:
    states = torch.arange(12.0).reshape(2, 3, 2)  # rows: (0,1) (2,3) (4,5) and (6,7) (8,9) (10,11)
    right = torch.tensor([[1, 1, 0], [1, 1, 1]])
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert pool(states, right, "cls").tolist() == [[0, 1], [6, 7]]
    assert pool(states, right, "mean").tolist() == [[1, 2], [8, 9]]
    assert pool(states, right, "last").tolist() == [[2, 3], [10, 11]]
    assert pool(states, left, "last").tolist() == [[4, 5], [10, 11]]


def test_pooling_follows_the_family(tiny_encoder: Path, tiny_chat: Path) -> None:
    assert create(str(tiny_encoder), SCHEMA, None, 64)[0].config.pooling == "cls"
    assert create(str(tiny_chat), SCHEMA, None, 64)[0].config.pooling == "last"


def test_backbone_keeps_its_pretrained_weights(backbone: Path) -> None:
    model, _ = create(str(backbone), SCHEMA, None, 64)
    for name, weight in AutoModel.from_pretrained(backbone).state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(weight, model.backbones[0].state_dict()[name]), name


def test_first_layers_are_kept(backbone: Path) -> None:
    model, tokenizer = create(str(backbone), SCHEMA, 1, 64)
    assert len(layer_stack(model.backbones[0])[1]) == 1
    original = layer_stack(AutoModel.from_pretrained(backbone))[1][0].state_dict()
    assert all(torch.equal(v, original[k]) for k, v in layer_stack(model.backbones[0])[1][0].state_dict().items())
    assert RewardScorer(model, tokenizer)(["rain"], ["snow"])["y"].shape == (1, 4)
    with pytest.raises(UserError, match=r"reward\.layers=3.*has 2 layers"):
        create(str(backbone), SCHEMA, 3, 64)


@pytest.mark.parametrize("head", registry.head.own)
def test_saved_model_gives_the_same_probabilities(backbone: Path, tmp_path: Path, head: str) -> None:
    model, tokenizer = create(str(backbone), SCHEMA, 1, 64, head)
    model.config.scales, model.config.shifts = [0.5, 2.0], [[0.0, 0.1], [0.3, -0.1, -0.1, -0.1]]
    before = RewardScorer(model, tokenizer)(QUESTIONS, ANSWERS)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, MultiHeadRewardModel)
    assert again.config.schema() == SCHEMA
    for scorer in (RewardScorer(again, AutoTokenizer.from_pretrained(tmp_path)), RewardScorer.load(tmp_path)):
        after = scorer(QUESTIONS, ANSWERS)
        assert {n: p.tolist() for n, p in after.items()} == {n: p.tolist() for n, p in before.items()}


def test_scale_divides_the_logits_of_its_head(tiny_encoder: Path) -> None:
    model, _ = create(str(tiny_encoder), SCHEMA, 1, 64)
    model.config.scales = [0.5, 2.0]
    found = model.probabilities({"x": torch.tensor([[0.0, 1.0]]), "y": torch.tensor([[0.0, 2.0, 0.0, 2.0]])})
    # x: logits 0, 2 -> e^2 / (1 + e^2); y: logits 0, 1, 0, 1 -> e / (2 + 2e).
    assert found["x"][0, 1].item() == pytest.approx(np.e**2 / (1 + np.e**2))
    assert found["y"][0, 1].item() == pytest.approx(np.e / (2 + 2 * np.e))


def test_a_published_reward_model_is_a_backbone_too(tiny_chat: Path, tmp_path: Path) -> None:
    """Of the kind of Skywork-Reward-V2-Qwen3-0.6B: a sequence classifier with one output, which is left out."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat)
    config = Qwen3Config(vocab_size=len(tokenizer), head_dim=8, pad_token_id=tokenizer.pad_token_id, num_labels=1, **sizes)
    published = Qwen3ForSequenceClassification(config)
    published.save_pretrained(tmp_path / "published")
    tokenizer.save_pretrained(tmp_path / "published")
    model, own = create(str(tmp_path / "published"), SCHEMA, None, 64)
    trained = published.model.state_dict()
    assert trained.keys() == (found := model.backbones[0].state_dict()).keys()
    assert all(torch.equal(found[name], values) for name, values in trained.items())
    scores = RewardScorer(model, own)(QUESTIONS, ANSWERS)
    assert {name: p.shape for name, p in scores.items()} == {"x": (4, 2), "y": (4, 4)}
