"""Rated rows and settings as people have them: exports of spreadsheets and chat tools, half-broken files, what a shell passes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from flows import profile as profiles
from moslim_core.data.prepare import prepare
from moslim_core.data.rows import Row, load_rows
from moslim_core.data.settings import DataSettings
from moslim_core.data.sources import open_sources
from moslim_core.preferences import PreferenceSchema
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress
from tests.odd.case import Case

FIVE = ["icy", "cold", "neutral", "warm", "hot"]
SCHEMA = PreferenceSchema.model_validate([{"name": "warmth", "levels": FIVE}])
GOOD = {"prompt": "Rain?", "response": "Yes.", "warmth": 4}


def line(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes}) + "\n"


def read(path: Path, **data: Any) -> list[Row]:
    settings = DataSettings.model_validate({"source": "jsonl", "path": path, **data})
    return [rated.row for source in open_sources(settings, SCHEMA) for rated in source.rows()]


def reads(name: str, file: str, content: str | bytes, *expected: Any, refused: str | None = None, **data: Any) -> Case:
    """A file of rows: `expected` has (prompt, response, level) of each, or (prompt, chosen, rejected)."""

    def act(folder: Path) -> None:
        path = folder / file
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read(path, **data)
        said = [(row.prompt[-1]["content"], row.response, (row.worse or row.levels()).get("warmth")) for row in found]
        assert said == list(expected), said

    return Case(name, act, refused)


YES = ("Rain?", "Yes.", 4)
CSV = {"source": "csv"}
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "Yes."}]
SHARED = [
    {"from": "human", "value": "Hi."},
    {"from": "gpt", "value": "Hello."},
    {"from": "human", "value": "Rain?"},
    {"from": "gpt", "value": "Yes."},
]
PAIRS = {"columns": {"pairs": "warmth"}}
PAIR = {"prompt": "Rain?", "chosen": "Yes.", "rejected": "No."}

READING = [
    reads("json_array", "rows.json", "[\n" + line() + ",\n" + line(warmth=2) + "]\n", YES, ("Rain?", "Yes.", 2)),
    reads("json_array_named_jsonl", "rows.jsonl", f" \n[{line()},{line(warmth=None)}] \n", YES, ("Rain?", "Yes.", None)),
    reads(
        "json_array_cut_off",
        "rows.json",
        "[" + line() + "," + line()[:20],
        refused="row 2: not JSON (Expecting property name enclosed in double quotes: the array is cut off)",
    ),
    reads("json_array_of_numbers", "rows.json", "[1, 2]", refused="row 1: a JSON object is needed"),
    reads(
        "json_object_over_lines", "rows.json", json.dumps({"rows": [GOOD]}, indent=1), refused="Write one JSON object a line, or one array"
    ),
    reads("gzipped_array", "rows.json.gz", gzip.compress(b"[" + line().encode() + b"]"), YES),
    reads("byte_order_mark", "rows.jsonl", b"\xef\xbb\xbf" + line().encode(), YES),
    reads("crlf_and_blank_lines", "rows.jsonl", line().replace("\n", "\r\n") + "\r\n \r\n" + line(), YES, YES),
    reads("utf_16", "rows.jsonl", line().encode("utf-16"), refused="row 1: not "),
    reads("nul_bytes", "rows.jsonl", line().encode() + b"\0" * 64 + b"\n", refused="row 2: not JSON"),
    reads(
        "half_a_character",
        "rows.jsonl",
        '{"prompt": "Rain\\ud83d?", "response": "Yes.", "warmth": 4, "x\\udc00": "\\ud800"}',
        ("Rain\ufffd?", "Yes.", 4),
    ),
    reads("half_a_character_as_rating", "rows.jsonl", line(warmth="\ud83d"), refused="warmth=\ufffd is no level of warmth"),
    reads("name_twice_in_an_object", "rows.jsonl", line()[:-2] + ', "warmth": 1}', refused="the name 'warmth' stands twice"),
    reads("number_of_5000_digits", "rows.jsonl", line(warmth=7).replace("7", "7" * 5000), refused="a number of more than 300 digits"),
    reads("number_of_250_digits", "rows.jsonl", line(warmth=7).replace("7", "7" * 250), refused="is no level of warmth (1..5, or null)"),
    reads("nested_100_000_deep", "rows.jsonl", line(extra=0).replace("0", "[" * 100_000 + "]" * 100_000), refused="nested too deeply"),
    reads("nested_500_deep", "rows.jsonl", line(extra=0).replace("0", "[" * 500 + "]" * 500), refused="nested too deeply"),
    reads("rating_of_infinity", "rows.jsonl", line(warmth=float("inf")), refused="warmth=inf is no level"),
    reads("rating_that_is_an_object", "rows.jsonl", line(warmth={"score": 4, "by": "A" * 500}), refused="row 1: warmth={'score': 4, 'by'"),
    reads("rating_between_two_levels", "rows.jsonl", line(warmth=4.5) + line(warmth="3.5"), ("Rain?", "Yes.", 4.5), ("Rain?", "Yes.", 3.5)),
    reads("rating_out_of_five", "rows.jsonl", line(warmth="4/5"), YES),
    reads("rating_out_of_ten", "rows.jsonl", line(warmth="7/10"), refused="Map ratings to levels under data.columns.labels.warmth.levels"),
    reads("ratings_of_three", "rows.jsonl", line(warmth=[4, "5", None]), ("Rain?", "Yes.", 4.5)),
    reads("rating_in_words", "rows.jsonl", line(warmth="4 stars"), refused="data.columns.labels.warmth.levels"),
    reads("source_that_is_an_object", "rows.jsonl", line(source={"of": "x"}), refused="column 'source' is no text"),
    reads(
        "columns_with_line_breaks",
        "rows.jsonl",
        json.dumps({"a\nb": 1} | {f"c{i}": 1 for i in range(99)}),
        refused="column 'prompt' is missing",
    ),
    reads("openai_messages", "rows.jsonl", json.dumps({"messages": CHAT, "warmth": 4}), YES),
    reads(
        "messages_of_parts",
        "rows.jsonl",
        json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "Rain?"}]}, CHAT[2]], "warmth": 4}),
        YES,
    ),
    reads(
        "messages_with_a_picture",
        "rows.jsonl",
        json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, CHAT[2]], "warmth": 4}),
        refused="more than text",
    ),
    reads(
        "messages_of_a_tool",
        "rows.jsonl",
        json.dumps({"messages": [{"role": "tool", "content": "x"}, *CHAT], "warmth": 4}),
        refused="it has the role tool",
    ),
    reads("messages_without_an_answer", "rows.jsonl", json.dumps({"messages": CHAT[:2], "warmth": 4}), refused="has no assistant turn"),
    reads("sharegpt_conversations", "rows.json", json.dumps([{"conversations": SHARED, "warmth": 4}]), YES),
    reads("conversation_of_another_name", "rows.jsonl", json.dumps({"turns": SHARED, "warmth": 4}), YES, columns={"messages": "turns"}),
    reads("chosen_and_rejected", "rows.jsonl", json.dumps(PAIR), ("Rain?", "Yes.", "No."), **PAIRS),
    reads(
        "chosen_and_rejected_as_on_the_hub",
        "rows.jsonl",
        json.dumps({**PAIR, "chosen": CHAT, "rejected": [*CHAT[:2], {"role": "assistant", "content": "No."}]}),
        ("Rain?", "Yes.", "No."),
        **PAIRS,
    ),
    reads(
        "chosen_and_rejected_as_marked_text",
        "rows.jsonl",
        json.dumps({"chosen": "\n\nHuman: Rain?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Rain?\n\nAssistant: No."}),
        ("Rain?", "Yes.", "No."),
        **PAIRS,
    ),
    reads("chosen_and_rejected_about_nothing", "rows.jsonl", json.dumps(PAIR), refused="--set data.columns.pairs=warmth"),
    reads(
        "chosen_and_rejected_of_two_prompts",
        "rows.jsonl",
        json.dumps({"chosen": CHAT, "rejected": CHAT[1:]}),
        refused="answer different prompts",
        **PAIRS,
    ),
    reads("pairs_about_an_unknown_preference", "rows.jsonl", json.dumps(PAIR), refused="The schema has: warmth.", columns={"pairs": "wit"}),
    reads(
        "semicolons",
        "rows.csv",
        '\ufeffprompt;response;warmth\r\n"Rain; or snow?";Yes, yes.;4\r\n',
        ("Rain; or snow?", "Yes, yes.", 4),
        **CSV,
    ),
    reads("separator_told_by_excel", "rows.csv", "sep=|\nprompt|response|warmth\nRain?|Yes.|4\n", YES, **CSV),
    reads("tabs", "rows.tsv", "prompt\tresponse\twarmth\t\nRain?\tYes.\t4\t\n\t\t\t\n", YES, **CSV),
    reads("gzipped_csv", "rows.csv.gz", gzip.compress(b"prompt,response,warmth\nRain?,Yes.,4\n"), YES, **CSV),
    reads(
        "cell_with_line_breaks",
        "rows.csv",
        'prompt,response,warmth\n"Rain?","Yes.\n\n""No.""\n",[4; 5]\n'.replace("; ", ","),
        refused="row 1: 4 fields",
        **CSV,
    ),
    reads("cell_of_several_ratings", "rows.csv", 'prompt,response,warmth\nRain?,"Yes.\nNo.","[4,5]"\n', ("Rain?", "Yes.\nNo.", 4.5), **CSV),
    reads(
        "header_with_a_name_twice",
        "rows.csv",
        "prompt,response,warmth,warmth\nRain?,Yes.,4,1\n",
        refused="the header names warmth more than once",
        **CSV,
    ),
    reads(
        "header_again_inside",
        "rows.csv",
        "prompt,response,warmth\nRain?,Yes.,4\nprompt,response,warmth\n",
        refused="row 2: the header again",
        **CSV,
    ),
    reads("quote_never_closed", "rows.csv", 'prompt,response,warmth\nRain?,"Yes.,4\nSnow?,No.,1\n', refused="line 2: a quote opens", **CSV),
    reads("csv_number_of_python", "rows.csv", "prompt,response,warmth\nRain?,Yes.,0_4\n", refused="warmth=0_4 is no level", **CSV),
    reads("latin_1_csv", "rows.csv", "prompt,response,warmth\nCafé?,Yes.,4\n".encode("latin-1"), refused="row 1: not UTF-8 text", **CSV),
    reads("csv_of_another_name", "rows.txt", "prompt,response,warmth\nRain?,Yes.,4\n", YES, **CSV),
    reads(
        "conversation_in_a_cell", "rows.csv", f"messages;warmth\n'{json.dumps(CHAT)}';4\n".replace('"', '""').replace("'", '"'), YES, **CSV
    ),
    reads("spreadsheet_named_csv", "rows.csv", b"PK\x03\x04\xff\xfe\x00", refused="the header is not UTF-8 text", **CSV),
    reads("prompt_that_looks_like_messages", "rows.jsonl", line(prompt=json.dumps(CHAT[:2])), (json.dumps(CHAT[:2]), "Yes.", 4)),
    reads("header_alone", "rows.csv", "prompt,response,warmth\n", refused="the file has no rows", **CSV),
]


@cache
def tokenizer() -> Path:
    """A chat model's folder, as far as preparing rows needs one: a tokenizer of words and a context of 128."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    folder = Path(mkdtemp(prefix="moslim-odd-"))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
    made.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    made.save_pretrained(folder)
    LlamaConfig(max_position_embeddings=128, hidden_size=8, num_attention_heads=1).save_pretrained(folder)
    return folder


Check = Callable[[Path, dict[str, Any]], bool]


def prepares(name: str, text: str, check: Check, refused: str | None = None, levels: list[str] = FIVE, **sections: Any) -> Case:
    """A JSON lines file of rows through the whole stage; `check` looks at its folder and at its data card."""

    def act(folder: Path) -> None:
        (folder / "rows.jsonl").write_text(text)
        values = {
            "preferences": [{"name": "warmth", "levels": levels}],
            "model": {"base": str(tokenizer())},
            "policy": {"max_prompt_tokens": 100, "max_new_tokens": 28},
            **sections,
            "data": {
                "source": "jsonl",
                "path": folder / "rows.jsonl",
                "test_fraction": 0.3,
                "validation_fraction": 0.3,
                **sections.get("data", {}),
            },
        }
        card = prepare(Settings.model_validate(values), folder / "output", folder / "cache", Progress())
        assert check(folder / "output", card), card

    return Case(name, act, refused)


MANY = "".join(line(prompt=f"What about {n}?", warmth=1 + n % 5) for n in range(40))
WIDE = "".join(line(prompt=f"What about {n}?", warmth=(-1e99, -1, 0, 1, 1e99)[n % 5]) for n in range(40))
LONG = "".join(line(prompt=f"Number {n} " + "word " * 200) for n in range(8))
BAD = '{"prompt": \n' + line(warmth=9) + line(warmth="?") + line(prompt=7)
DROP = {"data": {"bad_rows": "drop"}}
CHOICES = "".join(json.dumps({**PAIR, "prompt": f"What about {n}?"}) + "\n" for n in range(40))


def labels(folder: Path) -> list[Row]:
    return [row for split in ("train", "validation", "test") for row in load_rows(folder / f"{split}.jsonl")]


def _bad_rows_counted(folder: Path, card: dict[str, Any]) -> bool:
    reasons = {of["reason"]: (of["rows"], of["first"]) for of in card["bad_rows"]}
    return card["rows"] and sum(card["rows"].values()) == 40 and card["dropped"]["bad row: warmth is no level"] == 2 and reasons == {
        "not JSON": (1, "rows.jsonl, row 41"),
        "warmth is no level": (2, "rows.jsonl, row 42; rows.jsonl, row 43"),
        "the prompt is neither text nor messages": (1, "rows.jsonl, row 44"),
    }  # fmt: skip


PREPARING = [
    prepares("bad_rows_are_left_out_and_counted", MANY + BAD, _bad_rows_counted, **DROP),
    prepares("bad_row_ends_the_run", MANY + BAD, lambda *_: False, "--set data.bad_rows=drop"),
    prepares("bad_rows_alone", BAD, lambda *_: False, "row 1: not JSON", **DROP),
    prepares(
        "eight_prompts_too_long_for_the_model", MANY + LONG,
        lambda _, card: sum(n for why, n in card["dropped"].items() if why.startswith("prompt longer")) > 4,
    ),
    prepares("no_prompt_short_enough", MANY.replace("about", "word " * 200), lambda *_: False, "the model's context leaves room"),
    prepares(
        "raters_of_one_answer_are_merged", MANY + MANY.replace('"warmth": 1', '"warmth": 2'),
        lambda folder, card: card["between"] == {"warmth": 8} and {row.levels()["warmth"] for row in labels(folder)} == {1.5, 2, 3, 4, 5}
        and card["dropped"] == {"another rating of the same answer, merged with it": 8, "duplicate": 32},
    ),
    prepares(
        "choices_alone_where_there_are_two_levels", CHOICES,
        lambda folder, card: card["choices"]["warmth"] == card["rows"] and labels(folder)[0].worse == {"warmth": "No."},
        levels=["cold", "warm"], data=PAIRS,
    ),
    *(
        prepares(f"ratings_near_{rating}_{how}", MANY + line(warmth=rating), lambda *_: False, "warmth=" + json.dumps(rating)[:12],
                 data={"columns": {"labels": {"warmth": {how: way}}}})
        for rating in (1e308, -1.7e308)
        for how, way in (("thresholds", [1, 2, 3, 4]), ("quantiles", True))
    ),
    prepares(
        "ratings_from_minus_to_plus_1e99", WIDE,
        lambda folder, card: {row.levels()["warmth"] for row in labels(folder)} == {1, 2, 3, 4, 5},
        data={"columns": {"labels": {"warmth": {"quantiles": True}}}},
    ),
    prepares("choices_alone_where_there_are_five", CHOICES, lambda *_: False, "Choices say which answer is better", data=PAIRS),
]  # fmt: skip


def sets(name: str, *overrides: str, check: Callable[[Settings], bool] = bool, refused: str | None = None) -> Case:
    def act(folder: Path) -> None:
        settings = profiles.load("demo", list(overrides))
        assert check(settings), settings

    return Case(name, act, refused)


SETTING = [
    sets("path_with_a_hash", "data.path=/a/b #2.jsonl", check=lambda s: s.data.path == Path("/a/b #2.jsonl")),
    sets(
        "home_in_a_path",
        "data.path=~/x",
        "model.base=~/m",
        check=lambda s: s.data.path == Path.home() / "x" and s.model.base == f"{Path.home()}/m",
    ),
    sets(
        "words_that_yaml_guesses_at",
        "data.columns.prompt=yes",
        "data.columns.response=1:30",
        check=lambda s: s.data.columns.prompt == "yes" and s.data.columns.response == "1:30",
    ),
    sets("colon_and_bracket_in_text", "data.columns.prompt={a: b", check=lambda s: s.data.columns.prompt == "{a: b"),
    sets("number_of_python", "policy.steps=1_0", refused="a whole number is needed"),
    sets("mapping_in_short_form", "mapping.weights={warmth: 1e1}", check=lambda s: s.mapping.weights == {"warmth": 10.0}),
    sets("bytes_of_another_encoding", "data.path=\udce9", refused="not UTF-8 text"),
    sets("choices_without_a_loss", "data.columns.pairs=warmth", "reward.ranking_weight=0", refused="reward.ranking_weight=0"),
]

CASES = READING + PREPARING + SETTING
