"""Whether an answer only says its question again. (ours)

"The pigeons carried messages!" is short, simple and warm, is about its question, and tells nobody how pigeons carried messages: nothing
else that rewards an answer sees what is wrong with it.
"""

from __future__ import annotations

from functools import lru_cache

import regex
from nltk.stem.snowball import EnglishStemmer
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

# A longer question may well hold its answer: a text to find something in, or to make shorter.
MOST_WORDS = 40
# So does one to choose from, or to say yes or no to: "It is safe." answers "Is it safe?".
CHOICE = regex.compile(
    r"(?i)(?:^|[.!?:,;]\s+)(?:am|is|are|was|were|do|does|did|has|have|had|can|could|will|would|may|might|must|shall|should)\b|\bor\b"
)
# "don't" has nothing to tell; of "dog's" the dog has.
WORD = regex.compile(r"\p{N}+|\p{L}+['’]t\b|(?<!\p{L}['’])\b\p{L}+")
STEMMER = EnglishStemmer()


def restates(question: str, answer: str) -> bool:
    """Whether each content word of an answer stands in its question: by Snowball's stems (NLTK), without scikit-learn's stop words.

    One without any, such as "No.", does not. English: in other languages few are found, as endings and stop words differ.
    """
    if len(question.split()) > MOST_WORDS or CHOICE.search(question):
        return False
    said = _content(answer)
    return bool(said) and said <= _content(question)


@lru_cache(1024)
def _content(text: str) -> frozenset[str]:
    words = WORD.findall(text.lower())
    return frozenset(STEMMER.stem(w) for w in words if w not in ENGLISH_STOP_WORDS and not w.endswith(("'t", "’t")))
