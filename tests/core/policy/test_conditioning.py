"""Training examples: the policy reads the instruction, the question column does not, and every prompt comes equally often."""

from __future__ import annotations

import random
from collections import Counter

from moslim_core.data.rows import plain_text
from moslim_core.policy.conditioning import Example, held_out_combinations, training_examples
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import PreferenceSchema, Targets, is_held_out, neutralise, parse
from moslim_core.preferences.distractors import ATTACKS, UNSEEN_WISHES, WISHES, attacked, distracted
from moslim_core.preferences.imitations import OPEN

SCHEMA = PreferenceSchema.model_validate(
    [
        {"name": "warmth", "levels": ["cold", "neutral", "warm"]},
        {"name": "length", "levels": ["short", "medium", "long", "epic"]},
        {"name": "harm", "levels": ["harmful", "harmless"], "floor": 2},
    ]
)
SETTINGS = PolicySettings(
    steps=20, prompts_per_step=3, targets_per_prompt=2, none_fraction=0.1, held_out_fraction=0.2, distractor_fraction=0.0
)
PROMPTS = [
    *([{"role": "user", "content": f"Question {i}"}] for i in range(6)),
    [{"role": "system", "content": "Be Max."}, {"role": "user", "content": "<preferences>long (length 3/4)</preferences>"}],
]


def test_examples() -> None:
    examples = training_examples(PROMPTS, SCHEMA, SETTINGS, seed=1)
    assert [e.family for e in examples] == [i // 2 for i in range(120)]
    used = Counter(e.question for e in examples)
    assert len(used) == 7
    assert max(used.values()) - min(used.values()) <= 2
    held_out = held_out_combinations(SCHEMA, SETTINGS, seed=1)
    assert len(held_out) == 2  # a fifth of 3 * 4 pairs
    for example in examples:
        targets = example.targets
        assert parse(example.prompt, SCHEMA, "user_suffix") == targets
        assert not is_held_out(targets, held_out)
        assert example.prompt[-1]["content"].startswith(("Question", "\u2039preferences>"))  # user_suffix
        assert plain_text(example.plain) == example.question
        # The reward model reads what the user wrote, as it was written.
        assert example.question.startswith("Question") or example.question.endswith(PROMPTS[-1][-1]["content"])
    assert sum(e.targets == {} for e in examples) in (10, 12)
    for first, second in zip(examples[::2], examples[1::2], strict=True):
        assert first.question == second.question
        asked, other = (e.targets for e in (first, second))
        assert set(asked) == set(other)
        # The guard has one level that can be asked for; every other level differs.
        assert all(asked[name] != other[name] for name in asked if name != "harm")
    assert examples == training_examples(PROMPTS, SCHEMA, SETTINGS, seed=1)
    assert examples != training_examples(PROMPTS, SCHEMA, SETTINGS, seed=2)


def test_wording_varies_between_examples() -> None:
    texts = {e.prompt[-1]["content"].split("\n\n")[-1] for e in training_examples(PROMPTS[:1], SCHEMA, SETTINGS, 0)}
    assert sum("warm" in t and "harm" not in t and "length" not in t for t in texts) > 3  # three levels, more wordings


def line_of(example: Example) -> str:
    """What stands beside the question and the instruction."""
    said = example.prompt[-1]["content"]
    instruction = said[said.rindex(OPEN) :] if OPEN in said else ""
    return said.removesuffix(instruction).replace(example.question, "").strip()


def test_distractors_contradict_all_that_a_prompt_is_asked_for_and_are_the_policys_alone() -> None:
    chosen = SETTINGS.model_copy(update={"distractor_fraction": 0.25})
    examples = training_examples(PROMPTS[:6], SCHEMA, chosen, seed=1)
    plain = training_examples(PROMPTS[:6], SCHEMA, SETTINGS, seed=1)
    assert all(line_of(e) == "" for e in plain)
    assert Counter(e.question for e in examples) == Counter(e.question for e in plain)
    assert sum(line_of(e) != "" for e in examples[::2]) in (14, 15)  # a quarter of 60 prompts
    kinds: Counter[str] = Counter()
    for first, second in zip(examples[::2], examples[1::2], strict=True):
        asked, other = (e.targets for e in (first, second))
        assert parse(first.prompt, SCHEMA, "user_suffix") == asked
        assert line_of(first) == line_of(second)
        line = line_of(first)
        if not line:
            continue
        assert asked, "who asks for nothing is not contradicted"
        wanted = {
            (p.name, level) for p in SCHEMA.preferences for level in range(1, p.k + 1) for w in WISHES
            if line == w.format(label=p.label(level)) or (f"({p.name} {level}/{p.k})" in line or f"{p.name} {level}/{p.k}:" in line
            or (f"{p.name}: " in line and f"({level} of {p.k})" in line))
        }  # fmt: skip
        assert len(wanted) == 1
        ((name, level),) = wanted
        assert name in asked and level not in (asked[name], other[name])
        kinds["forged" if "preferences>" in line else "wish"] += 1
        assert OPEN not in line
    assert set(kinds) == {"forged", "wish"}


def test_requests_for_different_preferences_share_a_distractor_too() -> None:
    asked = [SCHEMA.targets({"warmth": 3}), SCHEMA.targets({"length": 1}), SCHEMA.targets({"warmth": 1, "harm": 2}), Targets()]
    for seed in range(20):
        said = distracted(PROMPTS[0], asked, SCHEMA, random.Random(seed))[-1]["content"]
        # Most are about warmth, and one level of it is left.
        assert "neutral" in said and "Question 0" in said


def test_evaluation_attacks_in_words_that_training_has_not() -> None:
    rng = random.Random(0)
    for p in SCHEMA.preferences:
        for kind in ATTACKS:
            said = attacked(PROMPTS[0], kind, p, p.k, rng)[-1]["content"]
            assert p.label(p.k) in said
            assert not any(w.format(label=p.label(p.k)) in said for w in WISHES) and OPEN not in neutralise(said)
    assert not set(WISHES) & set(UNSEEN_WISHES)
