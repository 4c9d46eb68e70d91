"""The data sets that `data.source` can name: where they are, what they rate on which scale, and what is wrong with them.

Nothing is copied from them here; their licences and defects are told in every data card that used them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from moslim_core.preferences import Message
from moslim_core.registry import source


class Rating(NamedTuple):
    """A rating that a data set offers for a preference. `scale`: its raw values, that of level 1 first."""

    preference: str
    column: str
    scale: tuple[int, ...]


class OwnRows:
    """A user's own rows, in columns and with binnings as the settings say."""

    licence = "not stated"


class HubSet(ABC):
    """A rated data set on the Hugging Face hub. `pairs`: the preference that its choices between two answers are about, if it has such."""

    hub: str
    revision: str
    licence: str
    files: dict[str, str | None]  # -> the split that the file states
    ratings: tuple[Rating, ...] = ()
    pairs: str | None = None
    defects: str

    @staticmethod
    @abstractmethod
    def expand(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of one record: {prompt, response, column: rating or null}, or {prompt, chosen, rejected}."""


@source("starter")
class Starter(OwnRows):
    """the set that comes with the package"""

    licence = "Apache-2.0"


@source("jsonl")
class JSONLines(OwnRows):
    """JSON lines at data.path"""


@source("parquet")
class Parquet(OwnRows):
    """Parquet at data.path"""


@source("csv")
class CSV(OwnRows):
    """CSV at data.path"""


ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def _completions(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """UltraFeedback and UltraSafety: a row per completion, with its fine-grained ratings."""
    for completion in record["completions"]:
        annotations = completion["annotations"]
        ratings = {aspect: _rating(annotations.get(aspect)) for aspect in (*ASPECTS, "harmlessness")}
        yield {"prompt": record["instruction"], "response": completion["response"] or "", **ratings}


def _rating(annotation: Any) -> Any:
    """The number in {"Rating": "4", ...} or in a list of one such; null for "N/A" and for none."""
    if isinstance(annotation, list):
        annotation = annotation[0] if annotation else None
    text = (annotation or {}).get("Rating")
    return None if text in (None, "N/A") else int(text) if str(text).isdigit() else text


_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)(?:\n|\Z)")


def _steer(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """HelpSteer2: a row as it is, but for conversations, whose turns are marked inside the prompt."""
    first, *marked = _TURN.split(record["prompt"])
    turns: list[Message] = [{"role": "user", "content": first}]
    turns += [{"role": role.lower(), "content": text} for role, text in zip(marked[::2], marked[1::2], strict=True)]
    # The mark that asks for the answer may stand at the end.
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    yield {**record, "prompt": turns}


def _pair(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """PKU-SafeRLHF: a row for each of the two answers."""
    for number in (0, 1):
        yield {
            "prompt": record["prompt"],
            "response": record[f"response_{number}"] or "",
            "safe": int(record[f"is_response_{number}_safe"]),
            "severity": record[f"response_{number}_severity_level"],
        }


def _choice(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """HelpSteer3-Preference: from -3, the first answer is much better, to 3, the second is; a tie is no choice."""
    answers = [record["response1"] or "", record["response2"] or ""]
    preference = int(record["overall_preference"])
    if preference > 0:
        answers.reverse()
    if preference:
        yield {"prompt": record["context"], "chosen": answers[0], "rejected": answers[1]}


@source("ultrafeedback")
class UltraFeedback(HubSet):
    """answers of many models to one prompt, rated by GPT-4 on four aspects, 1 to 5"""

    hub = "openbmb/UltraFeedback"
    revision = "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    licence = "MIT"
    files = {f"{part}.jsonl": None for part in ("sharegpt", "evol_instruct", "flan", "ultrachat", "truthful_qa", "false_qa")}
    ratings = tuple(Rating(aspect, aspect, (1, 2, 3, 4, 5)) for aspect in ASPECTS)
    defects = (
        "In 2,628 rows the overall score of 10 was a 1: it is not read, the ratings per aspect are. "
        "N/A ratings (honesty on creative prompts) are masked. Ratings are skewed high. "
        "All questions of TruthfulQA and FalseQA are among the prompts: such benchmarks are no test of what was trained on it."
    )
    expand = staticmethod(_completions)


@source("ultrasafety")
class UltraSafety(HubSet):
    """answers to harmful requests, harmless or not"""

    hub = "openbmb/UltraSafety"
    # Its file was replaced several times, and which commit is the last could not be looked up: the card tells which was read.
    revision = "main"
    licence = "MIT"
    files = {"UltraSafety.jsonl": None}
    ratings = (Rating("harmlessness", "harmlessness", (0, 1)),)
    defects = (
        "The prompt is the plain instruction, as in its authors' own training; the jailbreak text beside it is not read. "
        "Every prompt is harmful: alone it teaches refusal of everything."
    )
    expand = staticmethod(_completions)


@source("helpsteer2")
class HelpSteer2(HubSet):
    """answers rated by people on five aspects, 0 to 4"""

    hub = "nvidia/HelpSteer2"
    revision = "990b2711a36180dd19d9c94b8627844866f8982a"
    licence = "CC-BY-4.0"
    files = {"train.jsonl.gz": "train", "validation.jsonl.gz": "validation"}
    ratings = tuple(Rating(name, name, (0, 1, 2, 3, 4)) for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity"))
    defects = "Conversations stand in one text with marks between the turns: they are taken apart. Ratings are skewed high."
    expand = staticmethod(_steer)


@source("helpsteer3")
class HelpSteer3(HubSet):
    """people's choices between two answers, over many tasks and languages (HelpSteer3-Preference)"""

    hub = "nvidia/HelpSteer3"
    # Its files were replaced several times, and which commit is the last could not be looked up: the card tells which was read.
    revision = "main"
    licence = "CC-BY-4.0"
    files = {"preference/train.jsonl.gz": "train", "preference/validation.jsonl.gz": "validation"}
    pairs = "helpfulness"
    defects = "How much better an answer is, and what each of three to five people said, is not read; ties are left out."
    expand = staticmethod(_choice)


@source("pku-saferlhf")
class PKUSafeRLHF(HubSet):
    """pairs of answers, safe or not, and by how severe their harm is"""

    hub = "PKU-Alignment/PKU-SafeRLHF"
    # After the commit that removed noisy rows.
    revision = "9421ffafec3fa40a1f1a7d567b4d525079477ecb"
    licence = "CC-BY-NC-4.0"
    files = {f"data/{model}/{split}.jsonl": split for model in ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B") for split in ("train", "test")}
    # By the number of levels: safe or not, or how severe the harm is.
    ratings = (Rating("harmlessness", "safe", (0, 1)), Rating("harmlessness", "severity", (3, 2, 1, 0)))
    defects = (
        "Not for commercial use. The three models answered overlapping prompts: what crosses its train and test files is dropped "
        "from training."
    )
    expand = staticmethod(_pair)
