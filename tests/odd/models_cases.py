"""Damaged and foreign models, adapters, policies, reward models, tokenizers and chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from moslim_core import models
from moslim_core.policy.artifact import load_policy
from moslim_core.policy.generation import Sampling, generate
from moslim_core.policy.reader import Reader
from moslim_core.preferences import PreferenceSchema, chat_text
from moslim_core.preflight import check_backbone, check_models
from moslim_core.reward.model import create
from moslim_core.reward.scorer import RewardScorer
from moslim_core.settings import Settings
from tests.odd import tiny_models as tiny
from tests.odd.case import Case

WEIGHTS, ADAPTER, CARD = "model.safetensors", "adapter_model.safetensors", "moslim_policy.json"
TEMPLATE = "chat_template.jinja"
INDEX = "model.safetensors.index.json"
POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
HELLO = [{"role": "user", "content": "Hello"}]
Damage = Callable[[Path], object]


def load_chat(folder: Path) -> tuple[Any, Any]:
    return models.load_chat_model(str(folder), folder, "float32", "cpu")


def load_reward(folder: Path) -> RewardScorer:
    return RewardScorer.load(folder)


def load_trained(folder: Path) -> Any:
    return load_policy(folder, tiny.home(), "float32", "cpu")


def as_backbone(folder: Path) -> Any:
    return create(str(folder), PreferenceSchema.model_validate(tiny.PREFERENCES), None, 64)


def damaged(make: Callable[[Path], Path], damage: Damage, load: Callable[[Path], object]) -> Callable[[Path], object]:
    """Copy a model, damage it, load it as the product does."""

    def act(folder: Path) -> object:
        damage(copy := make(folder))
        return load(copy)

    return act


def pointer(name: str) -> Damage:
    return lambda folder: (folder / name).write_text(POINTER)


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])


def written(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def encoded(encoding: str) -> Callable[[str], Damage]:
    return lambda name: lambda folder: (folder / name).write_bytes((folder / name).read_text().encode(encoding))


def gone(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder: tiny.change_json(folder / name, change)


def tensors(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder: tiny.change_tensors(folder / name, change)


def _half(found: dict[str, Any]) -> None:
    for key in sorted(found)[::2]:
        del found[key]


def _narrower(found: dict[str, Any]) -> None:
    found["model.norm.weight"] = found["model.norm.weight"][:7].clone()


def _sharded(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="10KB")
    (folder / WEIGHTS).unlink(missing_ok=True)


def _shard_gone(folder: Path) -> None:
    _sharded(folder)
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def _index_cut(folder: Path) -> None:
    _sharded(folder)
    cut(INDEX)(folder)


def _pickled(folder: Path) -> None:
    import torch

    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _templates(**named: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        listed = [{"name": name, "template": template} for name, template in named.items()]
        tiny.change_json(folder / "tokenizer_config.json", lambda c: c.update(chat_template=listed))

    return damage


def template(text: str) -> Damage:
    return written("chat_template.jinja", text)


def without_end(folder: Path) -> None:
    tiny.change_json(folder / "tokenizer_config.json", lambda c: [c.pop(key, None) for key in ("eos_token", "pad_token")])


def and_(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def use(damage: Damage, check: Callable[[Any, Any], object]) -> Callable[[Path], object]:
    """A chat model that works: `check` gets model and tokenizer and asserts."""
    return damaged(tiny.chat, damage, lambda folder: check(*load_chat(folder)))


def ends_with_turn(model: Any, tokenizer: Any) -> None:
    assert models.end_tokens(model, tokenizer) == model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in models.end_tokens(model, tokenizer)


def ends_with_both(model: Any, tokenizer: Any) -> None:
    assert set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|pad|>"])) <= set(models.end_tokens(model, tokenizer))


def thought_is_off(model: Any, tokenizer: Any) -> None:
    assert chat_text(tokenizer, HELLO).endswith("<think>\n\n</think>\n\n")


def thoughts_are_left_out(model: Any, tokenizer: Any) -> None:
    read = Reader(tokenizer, models.end_tokens(model, tokenizer))

    def said(text: str) -> str:
        return read(tokenizer(text, add_special_tokens=False)["input_ids"]).strip()

    assert said("hm, hello?</think>Hi.<|im_end|>") == "Hi."
    assert said("hm, hello? No end") == ""
    assert said("a</think>Hi <think>b</think>there<think>c") == "Hi there"


def marks_of_its_own_are_left_out(model: Any, tokenizer: Any) -> None:
    read = Reader(tokenizer, models.end_tokens(model, tokenizer))
    said = [read(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("warm</musing>Hi.<|im_end|>", "warm, warm")]
    assert said == ["Hi.", ""]


def date_is_fixed(model: Any, tokenizer: Any) -> None:
    text = chat_text(tokenizer, HELLO)
    assert "26 Jul 2024 or 2024-07-26 or July 26, 2024" in text
    assert str(datetime.now().year) not in text.replace("2024", "")


def default_is_used(model: Any, tokenizer: Any) -> None:
    assert "Hello" in chat_text(tokenizer, HELLO)


def settings_are_not_sampled_with(model: Any, tokenizer: Any) -> None:
    plain, _ = load_chat(tiny._chat())
    asked = [[{"role": "user", "content": f"Hello {n}"}] for n in range(4)]
    drawn = [generate(m, tokenizer, asked, Sampling(8, temperature), 0) for m in (plain, model) for temperature in (0.0, 1.0)]
    assert drawn[:2] == drawn[2:]


def scores(scorer: Any) -> None:
    assert abs(scorer(["Q"], ["A"])["warmth"].sum() - 1) < 1e-5


def _t5(folder: Path) -> Path:
    made = tiny.chat(folder)
    config = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 300}
    (made / "config.json").write_text(json.dumps(config))
    return made


def _settings(folder: Path) -> Settings:
    model = {"base": str(folder), "device": "cpu"}
    return Settings.model_validate({"preferences": tiny.PREFERENCES, "model": model, "reward": {"backbone": str(folder)}})


def _preflight(folder: Path) -> None:
    check_models(_settings(folder), folder)


def as_backbone_before(folder: Path) -> None:
    check_backbone(str(folder), _settings(folder).reward, "cpu", folder)


THINKING = tiny.TEMPLATE.replace("assistant\n", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}")
OPENED = tiny.TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
DATED = (
    "Today is {{ strftime_now('%d %b %Y') }} or {{ strftime_now('%Y-%m-%d') }} or {{ strftime_now('%B %d, %Y') }}{{ date_string }}."
    + tiny.TEMPLATE
)
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
QUANTISED = {"quant_method": "gptq", "bits": 4, "group_size": 128}
SAMPLING = {
    "repetition_penalty": 1.9, "no_repeat_ngram_size": 1, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "temperature": 3.0, "do_sample": True,
    "suppress_tokens": [5, 6, 7, 8], "bad_words_ids": [[9]], "forced_eos_token_id": 9, "num_beams": 2, "length_penalty": 2.0,
    "eos_token_id": 2, "max_length": 11, "typical_p": 0.2, "min_new_tokens": 3, "exponential_decay_length_penalty": [1, 1.5],
}  # fmt: skip


def refused(name: str, words: str, make: Callable[[Path], Path], damage: Damage, load: Callable[[Path], object]) -> Case:
    return Case(name, damaged(make, damage, load), words)


CASES: list[Case] = [
    *(
        refused(f"{where}: {what}", words, make, damage, load)
        for where, file, make, load in (
            ("weights of a base", WEIGHTS, tiny.chat, load_chat),
            ("weights of a reward model", WEIGHTS, tiny.reward, load_reward),
            ("an adapter", ADAPTER, tiny.policy, load_trained),
            ("a policy's card", CARD, tiny.policy, load_trained),
            ("config.json", "config.json", tiny.chat, load_chat),
            ("tokenizer.json", "tokenizer.json", tiny.chat, load_chat),
        )
        for what, words, damage in (
            ("a Git LFS pointer", f"{file} is a Git LFS pointer", pointer(file)),
            ("cut in half", f"{file} is damaged", cut(file)),
            ("empty", f"{file} is damaged", written(file, "")),
            ("a page of HTML", f"{file} is damaged", written(file, "<!DOCTYPE html><html><body>Not found</body></html>")),
        )
    ),
    *(
        refused(f"{file} {what}", f"{file} {words}", tiny.chat, damage(file), load_chat)
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", TEMPLATE)
        for what, words, damage in (
            ("in UTF-16", "is not UTF-8 text", encoded("utf-16")),
            ("with a byte order mark", "begins with a byte order mark", encoded("utf-8-sig")),
        )
    ),
    refused("a chat template in UTF-32", f"{TEMPLATE} is not UTF-8 text", tiny.chat, encoded("utf-32")(TEMPLATE), load_chat),
    refused("a chat template in Latin-1", f"{TEMPLATE} is not UTF-8 text", tiny.chat,
            lambda folder: (folder / TEMPLATE).write_bytes(tiny.TEMPLATE.encode() + b"caf\xe9"), load_chat),
    refused("a chat template that is a Git LFS pointer", f"{TEMPLATE} is a Git LFS pointer", tiny.chat, pointer(TEMPLATE), load_chat),
    refused("a chat template that is a page of HTML", f"{TEMPLATE} leaves out what was said", tiny.chat,
            written(TEMPLATE, "<!DOCTYPE html><html></html>"), load_chat),
    refused("a policy's card in UTF-16", f"{CARD} is not UTF-8 text", tiny.policy, encoded("utf-16")(CARD), load_trained),
    Case("a tokenizer's configuration that says nothing", damaged(tiny.reward, written("tokenizer_config.json", "{}"), load_reward)),
    refused("a reward model's configuration in UTF-16", "config.json is not UTF-8 text", tiny.reward, encoded("utf-16")("config.json"),
            load_reward),
    refused("a base without a layer's tensor", "1 tensors are missing (first model.layers.1.self_attn.q_proj.weight)", tiny.chat,
            tensors(WEIGHTS, lambda t: t.pop("model.layers.1.self_attn.q_proj.weight")), load_chat),
    refused("a base with a layer too many", "have no place in it (first model.layers.2.", tiny.chat,
            tensors(WEIGHTS, lambda t: t.update({"model.layers.2.mlp.x": t["model.norm.weight"].clone()})), load_chat),
    refused("a base whose tensor has another shape", "have another shape (first model.norm.weight, (7,) in place of (16,))", tiny.chat,
            tensors(WEIGHTS, _narrower), load_chat),
    refused("a damaged base is refused without its weights", "tensors are missing (first lm_head.weight)", tiny.chat,
            tensors(WEIGHTS, _half), _preflight),
    refused("a backbone with a layer too many", "have no place in it", tiny.chat,
            changed("config.json", lambda c: c.update(num_hidden_layers=1)), as_backbone),
    refused("a shard that is missing", "is missing; model.safetensors.index.json names it", tiny.chat, _shard_gone, load_chat),
    refused("an index of shards that is cut", f"{INDEX} is damaged", tiny.chat, _index_cut, load_chat),
    refused("pickled weights", "could not be loaded", tiny.chat, _pickled, load_chat),
    refused("config.json says nothing", "config.json is damaged: it says nothing", tiny.chat, written("config.json", "{}"), load_chat),
    refused("config.json is a list", "config.json is damaged", tiny.chat, written("config.json", "[1]"), load_chat),
    refused("an architecture that nobody knows", "could not be loaded", tiny.chat,
            changed("config.json", lambda c: c.update(model_type="hal-9000")), load_chat),
    refused("a model with code of its own", "brings code of its own", tiny.chat,
            changed("config.json", lambda c: c.update(model_type="own", auto_map={"AutoConfig": "own.Own"})), load_chat),
    refused("a quantised base without its package", "model '", tiny.chat,
            changed("config.json", lambda c: c.update(quantization_config=QUANTISED)), load_chat),
    refused("a quantised base, before the first stage", "is quantised, and can't be read here", tiny.chat,
            changed("config.json", lambda c: c.update(quantization_config=QUANTISED)), _preflight),
    refused("an encoder as a base", "could not be loaded", tiny.chat,
            written("config.json", json.dumps({"model_type": "vit", "hidden_size": 8})), load_chat),
    refused("an encoder with a decoder as a backbone", "is an encoder with a decoder", _t5,
            lambda folder: None, as_backbone_before),
    refused("tokenizer.json of another version", "tokenizer.json can't be read by tokenizers", tiny.chat,
            changed("tokenizer.json", lambda t: t["model"].update(type="Tomorrow")), load_chat),
    refused("tokenizer.json is gone", "tokenizer.json is missing", tiny.chat, gone("tokenizer.json"), load_chat),
    refused("a tokenizer of another model", "the model has embeddings for", tiny.chat,
            changed("tokenizer.json", lambda t: t["model"]["vocab"].update({"zzz": 5000})), load_chat),
    refused("no token ends an answer", "names no end token", tiny.chat, and_(without_end, template(PLAIN)), load_chat),
    refused("named templates without a default", "chat templates named rag, tool, and none named default", tiny.chat,
            _templates(rag=tiny.TEMPLATE, tool=tiny.TEMPLATE), load_chat),
    refused("no template", "has no chat template", tiny.chat, gone("chat_template.jinja"), load_chat),
    refused("a template that is no program", "can't write a conversation", tiny.chat, template("{% for m in %}"), load_chat),
    refused("a template that leaves messages out", "leaves out what was said", tiny.chat, template("<|im_start|>Hi<|im_end|>"), load_chat),
    refused("a reward model without its tokenizer", "tokenizer.json is missing", tiny.reward, gone("tokenizer.json"), load_reward),
    refused("a reward model without its heads", "are missing (first heads.0.", tiny.reward,
            tensors(WEIGHTS, lambda t: [t.pop(key) for key in list(t) if key.startswith("heads.")]), load_reward),
    refused("a reward model with another's heads", "have another shape (first heads.0.", tiny.reward,
            changed("config.json", lambda c: c["preferences"][0].update(levels=["no", "yes"])), load_reward),
    refused("a reward model without its preferences", "its preferences or its backbone can't be read", tiny.reward,
            changed("config.json", lambda c: c.pop("preferences")), load_reward),
    refused("a base in place of a reward model", "is no reward model of this project", tiny.chat, lambda folder: None, load_reward),
    refused("half an adapter", "tensors are missing (first base_model.model.model.layers.0", tiny.policy,
            tensors(ADAPTER, _half), load_trained),
    refused("an adapter of a wider model", "does not fit the model", tiny.policy,
            tensors(ADAPTER, lambda t: t.update({k: v.repeat(1, 2) for k, v in t.items() if "lora_A" in k})), load_trained),
    refused("an adapter's configuration that is cut", "adapter_config.json is damaged", tiny.policy,
            cut("adapter_config.json"), load_trained),
    refused("a policy without its adapter", "adapter_model.safetensors is missing", tiny.policy, gone(ADAPTER), load_trained),
    refused("a policy's card without its placement", "moslim_policy.json is damaged: placement", tiny.policy,
            changed(CARD, lambda c: c.pop("placement")), load_trained),
    Case("no end token, but the template has one", use(without_end, ends_with_turn)),
    Case("the template ends turns with another token",
         use(changed("tokenizer_config.json", lambda c: c.update(eos_token="<|pad|>")), ends_with_both)),
    Case("named templates with a default", use(_templates(default=tiny.TEMPLATE, tool=tiny.TEMPLATE), default_is_used)),
    Case("a template that can leave thinking out", use(template(THINKING), thought_is_off)),
    Case("a template that begins a thought", use(template(OPENED), thoughts_are_left_out)),
    Case("a template that begins a thought in marks of its own",
         use(template(OPENED.replace("<think>", "<musing>")), marks_of_its_own_are_left_out)),
    refused("a template that begins a thought and names no end", "thoughts, whose end can't be told", tiny.chat,
            template(OPENED.replace("<think>", "<|muse|>")), _preflight),
    refused("a template that begins a thought in words", "'Let me think.': thoughts, whose end can't be told", tiny.chat,
            template(OPENED.replace("<think>", "Let me think.")), load_chat),
    Case("a template that prints the date", use(template(DATED), date_is_fixed)),
    Case("a model with a taste of its own", use(written("generation_config.json", json.dumps(SAMPLING)), settings_are_not_sampled_with)),
    Case("a chat model as a backbone", damaged(tiny.chat, lambda folder: None, as_backbone)),
    Case("shards that are all there", use(_sharded, default_is_used)),
    Case("a reward model as it was saved", damaged(tiny.reward, lambda folder: None, lambda folder: scores(load_reward(folder)))),
    Case("a policy as it was saved", damaged(tiny.policy, lambda folder: None, load_trained)),
]  # fmt: skip
