"""llama.cpp itself opens the exported file, writes the same turns and gives the same answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moslim_core.export.gguf_file import FILE, write_gguf
from moslim_core.models import load_chat_model
from tests.core.family_models import OPTIONS, make_family

ANSWERING = """
import json, sys
import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx, parameters.cpuparams.n_threads = sys.argv[1], 512, 1
# A random model has near-ties, which a cache in float16 and fused attention, the defaults, decide another way.
parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(parameters)
answers = []
for messages in json.loads(sys.argv[2]):
    said = server.handle_chat_completions({"messages": messages, "temperature": 0, "max_tokens": 12})
    answers.append((said if isinstance(said, dict) else json.loads(said))["choices"][0]["message"]["content"])
print("ANSWERS", json.dumps(answers))
"""


def _whole(answer: str) -> str:
    """Without the bytes of a character that the last token leaves unfinished."""
    return answer.rstrip("\N{REPLACEMENT CHARACTER}").strip()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_llama_cpp_answers_as_the_model_does(family: str, tiny_chat: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(OPTIONS, "qwen3", {"head_dim": 128})
    model, tokenizer = load_chat_model(str(make_family(family, tiny_chat, tmp_path / "base")), tmp_path, "float32", "cpu")
    write_gguf(tmp_path / FILE, model, tokenizer, "tiny", "float32")
    instruction = "<preferences>Answer style: warm (warmth 3/3)</preferences>"
    talks = [[{"role": "user", "content": f"How is number {n}?\n\n{instruction}"}] for n in range(5)]
    talks.append([{"role": "system", "content": "Be kind."}, *talks[0], {"role": "assistant", "content": "Well."}, *talks[1]])
    wanted = []
    for talk in talks:
        inputs = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        answer = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
        wanted.append(tokenizer.decode(answer, skip_special_tokens=True))
    run = subprocess.run(
        [sys.executable, "-c", ANSWERING, str(tmp_path / FILE), json.dumps(talks)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    (said,) = [line.removeprefix("ANSWERS ") for line in run.stdout.splitlines() if line.startswith("ANSWERS ")]
    assert list(map(_whole, json.loads(said))) == list(map(_whole, wanted))
    assert len(set(wanted)) > 1, "answers that say nothing would be equal whatever the file holds"
