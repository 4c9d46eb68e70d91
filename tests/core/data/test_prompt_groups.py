"""Prompts that are the same or nearly the same form one group, whatever their order; others do not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from moslim_core.data import prompt_groups
from moslim_core.data.prompt_groups import PERMUTATIONS, PromptGroups, near_pairs, shingles
from moslim_core.data.rows import prompt_key
from moslim_core.preferences import Message

WORDS = [f"word{n}" for n in range(400)]


def said(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def grouped(texts: list[str], threshold: float = 0.8) -> set[frozenset[str]]:
    found = PromptGroups(threshold)
    numbers = [found.add(said(text)) for text in texts]
    group = found.groups()
    return {frozenset(t for t, n in zip(texts, numbers, strict=True) if group[n] == g) for g in set(group.tolist())}


def test_shingles_are_word_triples() -> None:
    assert shingles("How do I, now, bake?") == {b"how do i", b"do i now", b"i now bake"}
    assert shingles("Well... WELL!") == {b"well well"}
    assert shingles("?!") == {b"?!"}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def test_near_duplicates_are_grouped_and_others_are_not() -> None:
    rng = random.Random(0)
    base = " ".join(rng.choices(WORDS, k=60))
    words = base.split()
    near = " ".join([*words[:30], "changed", *words[31:]])
    far = " ".join([*words[:15], *rng.choices(WORDS, k=30), *words[45:]])
    assert jaccard(base, near) > 0.88 and jaccard(base, far) < 0.5
    assert grouped([base, base.upper() + " ", near, far]) == {frozenset({base, base.upper() + " ", near}), frozenset({far})}
    # With 1, equal prompts only; the number of shared words does not matter.
    assert grouped([base, base.upper() + " ", near], threshold=1) == {frozenset({base, base.upper() + " "}), frozenset({near})}


def test_what_hangs_together_is_one_group_in_any_order() -> None:
    rng = random.Random(1)
    words = rng.choices(WORDS, k=80)
    chain = [" ".join(words)]
    for step in range(12):  # each nearly the same as the one before, the last far from the first
        words = [*words[: 6 * step], "new", *words[6 * step + 1 :]]
        chain.append(" ".join(words))
    assert jaccard(chain[0], chain[-1]) < 0.6
    others = [" ".join(rng.choices(WORDS, k=20)) for _ in range(40)]
    texts = chain + others
    expected = {frozenset(chain), *(frozenset({other}) for other in others)}
    for _ in range(3):
        rng.shuffle(texts)
        assert grouped(texts) == expected


def test_group_is_named_by_its_smallest_key() -> None:
    texts = [f"one two three four five six seven eight nine ten eleven twelve{mark}" for mark in ("", ".", "!", "?")]
    found = PromptGroups(0.8)
    numbers = [found.add(said(text)) for text in texts]
    assert numbers == [0, 1, 2, 3] and found.number(said(texts[2].upper())) == 2
    keys = found.keys()
    assert keys == [prompt_key(said(text)) for text in texts]
    assert {keys[g] for g in found.groups()} == {min(keys)}


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_pairs_connect_what_a_comparison_of_all_would(threshold: float) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(2**32, size=(60, PERMUTATIONS), dtype=np.uint32)
    copies = base[rng.integers(60, size=240)]
    signatures = np.where(rng.random((240, 1)) * rng.random(copies.shape) < 0.2, rng.integers(2**32, size=copies.shape), copies)
    signatures = signatures.astype(np.uint32)
    agreement = (signatures[:, None] == signatures[None]).mean(axis=2) >= threshold
    pairs = near_pairs(signatures, threshold)
    assert all(agreement[i, j] for i, j in pairs)
    assert components(240, pairs) == components(240, np.argwhere(np.triu(agreement, 1)))


def components(count: int, pairs: np.ndarray) -> list[int]:
    label = list(range(count))
    for i, j in pairs:
        old, new = sorted((label[i], label[j]), reverse=True)
        label = [new if at == old else at for at in label]
    return label


def test_one_bucket_of_thousands_is_not_compared_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    same = np.ones((5000, PERMUTATIONS), np.uint32)
    compared = 0
    connect = prompt_groups._connect

    def counting(members: np.ndarray, *rest: object) -> object:
        nonlocal compared
        compared += len(found := list(connect(members, *rest)))
        return found

    monkeypatch.setattr(prompt_groups, "_connect", counting)
    assert components(5000, near_pairs(same, 0.8)[:4999]) == [0] * 5000
    assert compared == 4999 * (PERMUTATIONS // 6)


def test_estimate_is_close_to_the_truth() -> None:
    rng = random.Random(2)
    found = PromptGroups(0.8)
    errors = []
    for _ in range(60):
        words = rng.choices(WORDS, k=50)
        other = [w if rng.random() > 0.05 else "else" for w in words]
        one, two = (found._signature(" ".join(w)) for w in (words, other))
        errors.append((one == two).mean() - jaccard(" ".join(words), " ".join(other)))
    assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 0.06
