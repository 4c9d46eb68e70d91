"""Small tokenizers of the kinds that models have, each with a chat template, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

TEXTS = (
    "The quick brown fox jumps over the lazy dog near the river. How do I bake bread at home?",
    "<preferences>Answer style: very short (verbosity 1/5); warm (warmth 3/3)</preferences>",
    "if (a < b && c[0] > d) return List<String>; Быстрая лиса прыгает; 速い狐; η γρήγορη αλεπού",
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3 does: earlier thoughts are left out, and the content is looked into for them.
THINKING = (
    "{% for m in messages %}{% set said = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
CHAT_MARKS = ["<|pad|>", "<|im_start|>", "<|im_end|>"]


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _byte_level(more: list[AddedToken], template: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=CHAT_MARKS, initial_alphabet=alphabet, show_progress=False)
    made = PreTrainedTokenizerFast(tokenizer_object=_trained(bpe, trainer), pad_token="<|pad|>", eos_token="<|im_end|>")
    made.add_tokens(more)
    made.chat_template = template
    return made


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 and SmolLM2; runs of spaces are added tokens too, and no marks."""
    return _byte_level([AddedToken("    ", normalized=False)], CHATML)


def thinking() -> PreTrainedTokenizerFast:
    """As Qwen3: marks that are no special tokens, one within another, one that takes the space beside it."""
    added = [AddedToken(t, normalized=False) for t in ("<think>", "</think>", "<tool_call>", "<<think>>")]
    return _byte_level([*added, AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False)], THINKING)


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral: a space before the text and in place of spaces, bytes for what is not known."""
    vocabulary = [f"<0x{b:02X}>" for b in range(256)]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    marks = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    trained = _trained(bpe, trainers.BpeTrainer(vocab_size=520, special_tokens=marks + vocabulary, show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=trained, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = INST
    return made


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and XLM-R: NFKC folds full-width brackets before one of the marks is looked for."""
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    letters = sorted(set("".join(TEXTS)) - {" "})
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", *CHAT_MARKS], unk_token="<unk>", initial_alphabet=letters, show_progress=False
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=_trained(unigram, trainer), unk_token="<unk>", pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    made.add_tokens([AddedToken("<turn>", special=True, normalized=True)])
    made.chat_template = CHATML
    return made


def lower_case() -> PreTrainedTokenizerFast:
    """As uncased BERT: small letters, accents and controls left out."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789<>|[]()/_.,:;!?'-")
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHAT_MARKS[1:], *letters, *(f"##{c}" for c in letters)])
    word_piece = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    word_piece.normalizer = normalizers.BertNormalizer()
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made = PreTrainedTokenizerFast(
        tokenizer_object=word_piece, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", eos_token="<|im_end|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.add_tokens([AddedToken("<turn>", special=True, normalized=True)])
    made.chat_template = CHATML
    return made


def bytes_alone() -> ByT5Tokenizer:
    """Written in Python, as ByT5's."""
    made = ByT5Tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHATML
    return made


KINDS: dict[str, Callable[[], Any]] = {
    made.__name__: cache(made) for made in (byte_level, thinking, sentence_piece, unigram, lower_case, bytes_alone)
}
