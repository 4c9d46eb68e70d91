"""Raw answers -> the starter set's rows: whole, on topic, without loops, and of each prompt those that differ most in level. (ours)

Nothing here asks a model: the same raw answers give the same rows on every machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import combinations
from typing import Any

import regex

from moslim_core.data.annotators import annotate_all
from moslim_core.data.starter.demonstrations import QUESTIONS, STYLES
from moslim_core.preferences import PreferenceSchema

# Levels of one answer: (preference, level) of one or two preferences.
Cell = tuple[tuple[str, int], ...]

ANSWERS_PER_PROMPT = 10
# Cosine of question and answer, as a sentence encoder sees them: below it answers are mostly about something else. In a few words little
# of the question comes again.
ON_TOPIC = 0.4
ON_TOPIC_IN_FEW_WORDS = 0.35
FEW_WORDS = 7
# With fewer words hardly an answer is a sentence.
SENTENCE_WORDS = 3
# An answer that begins as a noun does, and has none of these, is seldom a sentence: "The art of selecting a poem."
NOUN = regex.compile(r"(?i)^\W*(?:an?|the|my|your|his|her|its|our|their)\b")
CLAUSE = regex.compile(
    r"(?i)\b(?:am|is|are|was|were|be|been|has|have|had|can|cannot|could|will|would|may|might|must|shall|should|do|does|did|let"
    r"|it|you|they|we|i|he|she)\b|\p{L}['’](?:s|re|ve|ll|d|m|t)\b"
)
# What a sentence ends with.
SENTENCE = regex.compile(r".*?[.!?]+[\"')\]]*(?=\s+[\p{Lu}\"'(]|$)")
MOST_REPEATED = 0.2
# A word that goes on and on.
STUTTER = regex.compile(r"(\p{L}{1,4}?)\1{4}")
# In so many words five of a sentence say little about where they are from.
BY_CHANCE = 8
# Not in a file that ships.
COARSE = regex.compile(
    r"(?i)\b(?:bitch|bastard|fuck|shit|whore|slut|cunt|dick|penis|vagina|porn|rape|nazi|nigg|faggot|retard|suicide|dumbass|asshole)\w*"
)
SPECIAL = regex.compile(r"<\|?\w+\|?>|\.\d+\.\d|https?://|SmolLM|Hugging ?Face", regex.IGNORECASE)


def _words(text: str) -> Counter[str]:
    return Counter(regex.findall(r"\p{L}+", text.lower()))


# Of what the model was shown, all that is more than a word or two.
SHOWN = [words for style in STYLES for text in (*style.answers, style.system) if (words := _words(text)).total() > 2]
SHOWN += [words for question in QUESTIONS if (words := _words(question)).total() > 2]


def select(raw: Iterable[dict[str, Any]], schema: PreferenceSchema, dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows `prompt, response, source` with a level per preference, prompt by prompt. What is left out is counted in `dropped`, by reason.

    `raw`: rows `prompt, response, ended, topic`.
    """
    answers: dict[str, dict[str, float]] = defaultdict(dict)
    for row in raw:
        text, reason = _whole(row["response"], row["ended"])
        reason = reason or _unfit(text) or ("off the topic" if row["topic"] < _least(text) else "")
        if not reason and text in answers[row["prompt"]]:
            reason = "said before"
        if reason:
            dropped[reason] += 1
        else:
            answers[row["prompt"]][text] = row["topic"]
    everywhere: Counter[Cell] = Counter()
    for prompt, known in answers.items():
        levels = {text: annotate_all(text, schema) for text in known}
        chosen = _spread(known, levels, everywhere)
        dropped["like others of its prompt"] += len(known) - len(chosen)
        for text in chosen:
            yield {"prompt": prompt, "response": text, "source": "starter", **levels[text]}


def _whole(text: str, ended: bool) -> tuple[str, str]:
    """(the answer, or its whole sentences where it was cut; why it can't be had)."""
    text = whole_sentences(text, ended)
    return text, "" if regex.search(r"[.!?][\"')\]]*$", text) else "breaks off"


def whole_sentences(text: str, ended: bool) -> str:
    """The answer; of one that was cut the sentences before the cut, '' if there is none."""
    return text.strip() if ended else "".join(SENTENCE.findall(text.strip())).strip()


def _least(text: str) -> float:
    return ON_TOPIC_IN_FEW_WORDS if len(text.split()) <= FEW_WORDS else ON_TOPIC


def _unfit(text: str) -> str:
    """Why an answer is no example for anybody, '' where it is one."""
    words = _words(text)
    if words.total() < SENTENCE_WORDS or "\n" in text or SPECIAL.search(text):
        return "no plain sentence"
    if NOUN.search(text) and not CLAUSE.search(text):
        return "no clause"
    if COARSE.search(text):
        return "coarse"
    if loops(text):
        return "loops"
    if any(_close(words, shown) for shown in SHOWN):
        return "copies a demonstration"
    return ""


def loops(text: str) -> bool:
    """Whether an answer says the same over and over."""
    words = regex.findall(r"\p{L}+", text.lower())
    triples = [tuple(words[n : n + 3]) for n in range(len(words) - 2)]
    repeated = 1 - len(set(triples)) / len(triples) if triples else 0.0
    return repeated > MOST_REPEATED or any(len(set(triple)) == 1 for triple in triples) or bool(STUTTER.search(text))


def _close(said: Counter[str], shown: Counter[str]) -> bool:
    """Whether most of what was shown stands in what is said. The words of a short sentence stand in many a long answer by chance."""
    needed = 0.7 * max(shown.total(), min(said.total(), BY_CHANCE))
    # Nearly always too many words are missing: that is quick to see, so it comes first.
    return shown.total() - len(shown.keys() - said.keys()) >= needed and (said & shown).total() >= needed


def _spread(topics: dict[str, float], levels: dict[str, dict[str, int]], everywhere: Counter[Cell]) -> list[str]:
    """Answers to one prompt, each next one with the levels that are rarest: among those chosen for it, then in the whole set.

    Pairs of levels count as levels do: where all long answers were warm as well, length and warmth could not be learnt apart.
    """
    cells = {text: _cells(of) for text, of in levels.items()}
    here: Counter[Cell] = Counter()
    left, chosen = list(topics), list[str]()
    while left and len(chosen) < ANSWERS_PER_PROMPT:
        best = max(left, key=partial(_worth, cells, topics, here, everywhere))
        left.remove(best)
        chosen.append(best)
        here.update(cells[best])
        everywhere.update(cells[best])
    return chosen


def _cells(levels: dict[str, int]) -> list[Cell]:
    """Each level that an answer has, and each two of them."""
    return [cell for size in (1, 2) for cell in combinations(levels.items(), size)]


def _worth(cells: dict[str, list[Cell]], topics: dict[str, float], here: Counter[Cell], everywhere: Counter[Cell], text: str) -> float:
    total = sum(everywhere.values()) + 1
    return sum(1 / (1 + here[cell]) - 3 * everywhere[cell] / total for cell in cells[text]) + topics[text] / 2
