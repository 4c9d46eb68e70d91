"""Tiny models with random weights, made on the spot: the whole path runs in seconds, without network or fixtures in the tree."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# Where files are tested side by side, each has a core for itself; also the processes that a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that a test starts find the tests' own modules, also where they leave out the current folder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))

# The same examples in every run; a found counterexample belongs into the test as an explicit case.
settings.register_profile("moslim", deadline=None, derandomize=True, database=None)
settings.load_profile("moslim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: side by side with others, none is left over at the end."""
    items.sort(key=lambda item: item.path.parent.name != "flow")


def naming(folder: Path, place: Path) -> list[str]:
    """Files below `folder` that name another place: what may be published must not."""
    return [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file() and str(place).encode() in f.read_bytes()]


class Hub:
    """The cache of the hub's own client in a folder of the test's, without a network."""

    def __init__(self, cache: Path, fetched: dict[str, str]) -> None:
        self.cache, self._fetched = cache, fetched

    def commit(self, name: str, model: Path, revision: str) -> Path:
        """The snapshot of `name` that becomes `main`, with the files of a folder."""
        home = self.cache / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text(revision)
        return Path(shutil.copytree(model, home / "snapshots" / revision))

    def forget(self) -> None:
        """What this process has fetched, as if it were another."""
        self._fetched.clear()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    from moslim_core.models import sources

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetched: dict[str, str] = {}
    monkeypatch.setattr(sources, "_fetched", fetched)
    return Hub(tmp_path / "hub", fetched)


SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the river.",
    "How do I bake bread at home? Mix flour, water, salt and yeast.",
    "This answer is good and helpful. That answer is bad and wrong.",
    "Please write a short, warm and simple answer about rain and snow.",
    "<preferences>very short (verbosity 1/5); warmth 3/3: warm</preferences>",
)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama (grouped-query attention) and a byte-level BPE tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)  # more threads only cost time at this size
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # large enough for next-token distributions that are not flat
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("tiny-chat")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer BERT and a WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.set_num_threads(1)
    # Training WordPiece breaks ties in another way every time; whole words and single characters are a vocabulary too.
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = re.findall(r"[a-z]{2,}", " ".join(SENTENCES).lower())
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words])
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("tiny-encoder")
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Prefect's server makes of a new work directory with an odd name, for all processes that test."""
    from flows.service.server import prefect_server
    from tests.flow.conftest import ODD_NAME

    root = tmp_path_factory.getbasetemp()
    shared = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "prefect.db"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            work_dir = tmp_path_factory.mktemp("server") / ODD_NAME
            with prefect_server(work_dir):
                pass
            # The copy has what the server has left in files beside it, too.
            files = (work_dir / "prefect" / "prefect.db", f"{shared}.partial")
            with contextlib.ExitStack() as opened:
                made, copy = (opened.enter_context(contextlib.closing(sqlite3.connect(file))) for file in files)
                made.backup(copy)
            os.replace(f"{shared}.partial", shared)
    return shared


@pytest.fixture(scope="session")
def prepared(database: Path) -> Callable[[Path], Path]:
    """A work directory, as given, that Prefect's server has its database in."""

    def prepare(work_dir: Path) -> Path:
        home = work_dir / "prefect"
        home.mkdir(parents=True)
        shutil.copyfile(database, home / "prefect.db")
        return work_dir

    return prepare
