"""Merged folder, GGUF file, Ollama's Modelfile: they answer as the adapter does, with nothing of this project to open them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moslim_core.errors import UserError
from moslim_core.export import folder as folders
from moslim_core.export.card import Record
from moslim_core.export.gguf_file import FILE, export_gguf, write_gguf
from moslim_core.export.merged import export_merged
from moslim_core.export.ollama import export_ollama, modelfile, turns_of
from moslim_core.models import load_chat_model
from moslim_core.policy.artifact import PolicyCard
from moslim_core.policy.card import model_card
from moslim_core.policy.steerable import SteerablePolicy
from moslim_core.preferences import PreferenceSchema, chat_text
from tests.conftest import naming
from tests.core.export.policies import make_policy
from tests.core.family_models import OPTIONS, make_family
from tests.core.preferences.tokenizers_made import KINDS

SCHEMA = PreferenceSchema.model_validate([{"name": "warmth", "levels": ["cold", "warm"]}])
ASKED: tuple[dict[str, int], ...] = ({}, {"warmth": 1}, {"warmth": 3, "safety": 2}, {"safety": 3})


@pytest.mark.parametrize(("family", "placement"), [("llama", "user_suffix"), ("qwen2", "system"), ("gemma3_text", "user_prefix")])
def test_the_merged_folder_answers_as_the_adapter_does(family: str, placement: str, tiny_chat: Path, tmp_path: Path) -> None:
    policy = make_policy(family, tiny_chat, tmp_path, placement)
    output = export_merged(policy, tmp_path / "out", tmp_path, "float32", None, None)
    adapter = SteerablePolicy.from_pretrained(policy, tmp_path, "float32", "cpu")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == bool(adapter.model.config.tie_word_embeddings)
    questions = [(f"How is number {n}?", ASKED[n % len(ASKED)]) for n in range(20)]
    wanted = adapter.chat_batch([q for q, _ in questions], [a for _, a in questions], temperature=0, max_new_tokens=8)
    for (question, asked), answer in zip(questions, wanted, strict=True):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], preferences=asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        found = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(found, skip_special_tokens=True).strip() == answer.text
    assert len({answer.text for answer in wanted}) > 1, "answers that say nothing would be equal whatever the weights"
    assert naming(output, tmp_path) == []
    assert "moslim_core" not in (output / "README.md").read_text()


def example_of(readme: str) -> str:
    """The card's program."""
    return re.search(r"(?s)```python\n(.*?)```", readme)[1]  # type: ignore[index]


def test_the_examples_of_the_cards_run_as_they_are(
    tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = make_policy("llama", tiny_chat, tmp_path)
    found = Record({"headline": "", "findings": [], "remarks": [], "best": "safety"}, None)
    for record, name, ends in ((None, "warmth", ["1", "3"]), (found, "safety", ["2", "3"])):
        output = export_merged(policy, tmp_path / f"out-{name}", tmp_path, "float32", None, record)
        monkeypatch.chdir(output)
        exec(example_of(readme := (output / "README.md").read_text()), {})
        assert [line[0] for line in capsys.readouterr().out.splitlines() if line[:2] in ("1 ", "2 ", "3 ")] == ends
        assert f"with {name} at its lowest and at its highest level" in readme and f"{name}=3 gives the model" in readme
    log = {"expected_level/safety/2": 2.0, "expected_level/safety/3": 2.9, "expected_level/warmth/1": 2.0}
    readme = model_card(PolicyCard.load(policy), [log])
    assert "with safety at its lowest" in readme, "what training moved most; of warmth one end was never asked for"
    monkeypatch.chdir(policy)
    monkeypatch.setattr("moslim_core.policy.steerable._own_cache", lambda: tmp_path)
    exec(example_of(readme), {})
    assert capsys.readouterr().out.count("…\n") == 2, "answers of a random model are cut, and marked"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_has_the_model_s_logits_and_its_tokenizer(family: str, tiny_chat: Path, tmp_path: Path, monkeypatch: Any) -> None:
    # transformers reads no size of a head for this family: what it assumes is that of the family's models.
    monkeypatch.setitem(OPTIONS, "qwen3", {"head_dim": 128})
    model, tokenizer = load_chat_model(str(make_family(family, tiny_chat, tmp_path / "base")), tmp_path, "float32", "cpu")
    ids = tokenizer("How do I bake bread at home?\n\nMix 12 eggs <|im_end|>", return_tensors="pt")["input_ids"]
    largest = {}
    for dtype in ("float32", "float16", "bfloat16"):
        (tmp_path / dtype).mkdir()
        write_gguf(tmp_path / dtype / FILE, model, tokenizer, "tiny", dtype)  # type: ignore[arg-type]
        read = AutoModelForCausalLM.from_pretrained(tmp_path / dtype, gguf_file=FILE, dtype=torch.float32)
        with torch.no_grad():
            largest[dtype] = float((read(ids).logits - model(ids).logits).abs().max())
    assert largest["float32"] < 1e-6 < largest["float16"] < largest["bfloat16"] < 0.3
    again = AutoTokenizer.from_pretrained(tmp_path / "float32", gguf_file=FILE)
    assert again(tokenizer.decode(ids[0]))["input_ids"] == ids[0].tolist()
    assert again.chat_template == tokenizer.chat_template and again.eos_token_id == tokenizer.eos_token_id


def test_scaled_positions_are_in_the_file(tiny_chat: Path, tmp_path: Path) -> None:
    import gguf

    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    base = make_family("llama", tiny_chat, tmp_path / "base")
    model, tokenizer = load_chat_model(str(base), tmp_path, "float32", "cpu")
    model.config.rope_parameters = rope
    scaled = type(model)(model.config)
    write_gguf(tmp_path / FILE, scaled, tokenizer, "tiny", "float32")
    found = {t.name: t.data for t in gguf.GGUFReader(tmp_path / FILE).tensors}["rope_freqs.weight"]
    assert found.shape == (4,) and found[0] == pytest.approx(1) and found[-1] == pytest.approx(8)


def test_other_architectures_and_tokenizers_are_refused(tiny_chat: Path, tmp_path: Path) -> None:
    policy = make_policy("gemma3_text", tiny_chat, tmp_path / "gemma")
    for export in (export_gguf, export_ollama):
        with pytest.raises(UserError, match=r"(?s)gemma3_text, and llama, qwen2, qwen3 are what is written.*convert_hf_to_gguf.py"):
            export(policy, tmp_path / "output", tmp_path / "gemma", "auto", None, None)
    model, _ = load_chat_model(str(make_family("llama", tiny_chat, tmp_path / "base")), tmp_path, "float32", "cpu")
    with pytest.raises(UserError, match="byte-level BPE as in gpt-2, smollm, llama-bpe, qwen2"):
        write_gguf(tmp_path / FILE, model, KINDS["sentence_piece"](), "tiny")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(UserError, match=r"float16 can't hold.*\n.*bfloat16"):
        write_gguf(tmp_path / FILE, model, KINDS["byte_level"](), "tiny")


def test_ollama_gets_the_file_the_turns_and_the_instructions(tiny_chat: Path, tmp_path: Path) -> None:
    policy = make_policy("llama", tiny_chat, tmp_path)
    output = export_ollama(policy, tmp_path / "out", tmp_path, "float32", None, None)
    assert sorted(file.name for file in output.iterdir()) == ["Modelfile", "README.md", FILE]
    said = (output / "Modelfile").read_text()
    assert "FROM ./policy.gguf\n" in said and 'PARAMETER stop "<|im_end|>"' in said and "PARAMETER temperature 0.7" in said
    instruction = "<preferences>Answer style: warm (warmth 3/3)</preferences>"
    assert f"#   warmth 3: {instruction}" in said and f"| warmth | 3 | `{instruction}` |" in (output / "README.md").read_text()
    assert "safety 1" not in said, "a level that can't be requested is not offered"


def go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of the few actions that a Modelfile here has."""
    head, body, tail = re.fullmatch(r"(?s)(.*){{ range .Messages }}(.*){{ end }}{{ end }}(.*)", template).groups()  # type: ignore[union-attr]
    branches = dict(re.findall(r'(?s){{ (?:else )?if eq .Role "(\w+)" }}(.*?)(?={{ else if|\Z)', body))
    text = head + "".join(branches[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages) + tail
    return re.sub(r'{{ "((?:[^"\\]|\\.)*)" }}', lambda found: found[1].replace('\\"', '"'), text)


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece", "odd"])
def test_the_go_template_writes_the_model_s_turns(kind: str) -> None:
    tokenizer = KINDS["byte_level" if kind == "odd" else kind]()
    own = tokenizer.chat_template
    if kind == "odd":
        # Marks that mean something to Go and to a Modelfile, and a system turn where none is said.
        tokenizer.chat_template = (
            "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}{% for m in messages %}"
            "<|im_start|>{{ '{{' }}{{ m['role'] }}\"\"\"\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
        ).replace("<|im_start|>system\n", '<|im_start|>{{ \'{{\' }}system"""\n', 1)
    try:
        turns = turns_of(tokenizer)
        card = PolicyCard.model_construct(preferences=SCHEMA, placement="user_suffix")
        said = modelfile(card, turns, ["</s>"])
        template = re.search(r'(?s)TEMPLATE """(.*?)"""\n(?:SYSTEM|PARAMETER)', said)[1]  # type: ignore[index]
        assert ("Be kind." in said) == (kind == "odd")
        talk = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(("user", "assistant", "user", "assistant", "user"))]
        for messages in (talk[:1], talk[:3], talk):
            given = [{"role": "system", "content": turns.default_system}, *messages] if turns.default_system else messages
            assert go(template, given) == chat_text(tokenizer, messages)
    finally:
        tokenizer.chat_template = own


def test_a_template_that_is_no_row_of_turns_is_refused() -> None:
    tokenizer = KINDS["byte_level"]()
    own, tokenizer.chat_template = tokenizer.chat_template, "{{ messages | length }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    try:
        with pytest.raises(UserError, match=r"can't be said in Ollama's.*\n.*llama-server --jinja"):
            turns_of(tokenizer)
    finally:
        tokenizer.chat_template = own


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        folders.require_new(tmp_path / "full")
    with pytest.raises(UserError, match="GB are needed"):
        folders.require_new(tmp_path / "new", sys.maxsize)
    with pytest.raises(KeyError), folders.new_folder(tmp_path / "new") as partial:
        (partial / "half").touch()
        raise KeyError
    assert [f.name for f in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    with folders.new_folder(tmp_path / "empty") as partial:
        (partial / "whole").touch()
    assert [f.name for f in (tmp_path / "empty").iterdir()] == ["whole"]
