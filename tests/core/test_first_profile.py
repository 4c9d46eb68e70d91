"""A profile written for somebody's rows passes the label stage as it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flows import profile
from flows.cli import init_profile
from flows.cli.plan import show as show_plan
from flows.cli.preview import show as show_preview
from moslim_core.data import columns
from moslim_core.data.preview import preview
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from moslim_core.settings_section import changed


def rows(count: int = 20, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is thing number {p}?", "response": f"It is thing {p}, {'really ' * a} so.", "warmth": 1 + (p + a) % 3}
        | {name: of(p, a) for name, of in columns.items()}
        for p in range(count)
        for a in range(3)
    ]


def table(path: Path, values: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, values[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(values)
    return path


def lines(path: Path, values: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def written_for(file: Path) -> str:
    output = file.with_suffix(".yaml")
    init_profile.write(file, output)
    return output.read_text()


def made(file: Path, tiny_chat: Path) -> Settings:
    """The settings of the profile that is written for the file, with a model of the tests'."""
    output = file.with_name("mine.yaml")
    init_profile.write(file, output)
    settings = profile.load(str(output), ["work_dir=" + str(file.parent / "work")])
    return changed(settings, model=changed(settings.model, base=str(tiny_chat)), policy=changed(settings.policy, max_prompt_tokens=512))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("own.csv", lambda v: v),
        ("own.tsv", lambda v: v),
        ("own.jsonl", lambda v: v),
        ("own.csv", lambda v: [{"Frage an uns": r["prompt"], "Antwort": r["response"], "Wärme!": r["warmth"]} for r in v]),
        ("own.jsonl", lambda v: [{"messages": turns(r), "warmth": r["warmth"]} for r in v]),
        ("own.csv", lambda v: [{**r, "warmth": ("cold", "n/a", "hot")[r["warmth"] - 1], "ok": ("yes", "no")[r["warmth"] % 2]} for r in v]),
        ("own.jsonl", lambda v: [{**r, "warmth": [r["warmth"], 2]} for r in v]),
        ("own.csv", lambda v: [{**r, "warmth": f"{r['warmth']}/3"} for r in v]),
        ("own.csv", lambda v: [{"prompt": r["prompt"], "response": r["response"]} for r in v]),
        ("own.csv", lambda v: [*v, {**v[0], "prompt": ""}]),
        ("own.jsonl", lambda v: [{"prompt": r["prompt"], "chosen": r["response"], "rejected": "No."} for r in v]),
    ],
)
def test_the_profile_passes_the_label_stage(name: str, change: Any, tmp_path: Path, tiny_chat: Path) -> None:
    values = change(rows())
    path = tmp_path / name
    file = lines(path, values) if name.endswith("jsonl") else table(path, values, "\t" if name.endswith("tsv") else ",")
    found = preview(made(file, tiny_chat), tmp_path / "cache")
    assert found.refused is None
    assert set(found.rows) >= {"train", "validation", "test"}
    assert found.policy_prompts is not None and min(found.policy_prompts.values()) > 0


def turns(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]


def test_a_gpu_learns_in_the_same_way_as_the_packaged_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = init_profile.Machine("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", True, "a card with 80 GB")
    monkeypatch.setattr(init_profile, "machine", lambda: card)
    init_profile.write(table(tmp_path / "own.csv", rows()), tmp_path / "mine.yaml")
    settings, demo = profile.load(str(tmp_path / "mine.yaml")), profile.load("demo")
    for key in ("optimiser", "centred", "relabel", "imitation", "epochs", "targets_per_prompt", "truncation_penalty"):
        assert getattr(settings.policy, key) == getattr(demo.policy, key), key
    assert settings.mapping == changed(demo.mapping, weights={"warmth": 2.0})
    assert settings.policy.gradient_checkpointing and settings.reward.gradient_checkpointing and settings.reward.adapter_of == card.base


def test_little_is_drawn_where_the_data_has_few_answers_to_a_prompt(tmp_path: Path) -> None:
    init_profile.write(table(tmp_path / "own.csv", rows()), tmp_path / "mine.yaml")
    policy = profile.load(str(tmp_path / "mine.yaml")).policy
    # Three rated answers a prompt, and three drawn, one under each request: six, of which the three that differ most are learnt from.
    assert policy.targets_per_prompt * policy.group_size == 6
    assert round(policy.contrast * 6) == 3 and round(policy.rated_answers * 6) == 3


def test_rows_that_cannot_be_used_are_told_and_none_that_can_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = rows()
    file = tmp_path / "own.jsonl"
    lines(file, values)
    file.write_text(file.read_text() + '{"prompt": "Cut o')
    init_profile.write(file, tmp_path / "mine.yaml")
    assert "some rows can't be used (1 x not JSON): they are left out" in capsys.readouterr().out
    assert "bad_rows: drop" in (tmp_path / "mine.yaml").read_text()
    assert "bad_rows: drop" not in written_for(lines(tmp_path / "e.jsonl", [{**values[0], "response": ""}, *values]))
    assert "some rows can't be used (1 x empty answer): they are left out" in capsys.readouterr().out
    # A rule rates what no column does: every row can be used.
    init_profile.write(
        table(tmp_path / "bare.csv", [{"prompt": v["prompt"], "response": v["response"]} for v in values]), tmp_path / "b.yaml"
    )
    assert "bad_rows" not in (tmp_path / "b.yaml").read_text()
    with pytest.raises(UserError, match="column 'response' holds dict, text is needed"):
        init_profile.write(lines(tmp_path / "d.jsonl", [{**v, "response": {"text": "Yes."}} for v in values]), tmp_path / "d.yaml")
    with pytest.raises(UserError, match=r"no row can be used \(60 x empty answer\)"):
        init_profile.write(lines(tmp_path / "d.jsonl", [{**v, "response": " "} for v in values]), tmp_path / "d.yaml")
    assert not (tmp_path / "d.yaml").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("own.csv", '{"prompt": "Rain?", "response": "Yes."}\n' * 3, r"its first line is JSON.*\.jsonl"),
        ("own.jsonl", "prompt,response\nRain?,Yes.\n", r"not JSON.*a table's name ends in \.csv"),
        ("own.csv", "# of 2024, by us\nprompt,response\nRain?,Yes.\n", r"first line is a comment \(# of 2024\).*Remove the line"),
        ("own.csv", b"{{\xe9\n,\xff\n", r"not UTF-8 text"),
        ("own.csv", b"PAR1\xe9\x00\n1,2\n", r"a Parquet file: let its name end in \.parquet"),
        ("own.csv", b"PK\x03\x04\xe9\n1,2\n", r"an Excel file"),
        ("own", "prompt,response\nRain?,Yes.\n", r"a table's name ends in \.csv"),
        # Most rows can be read, and are no sample of the others.
        ("own.csv", "prompt,response\n" + "Rain?,Yes.\n" * 9 + "Caf\xe9?,Yes.\n", "row 10: not UTF-8 text.*iconv -f cp1252 -t utf-8"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says(name: str, content: str | bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin1") if isinstance(content, str) else content)
    with pytest.raises(UserError, match=f"(?s){words}"):
        init_profile.write(tmp_path / name, tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="is a folder"):
        init_profile.write(tmp_path, tmp_path / "mine.yaml")
    (tmp_path / "other.csv").write_bytes("prompt,response\nCafé?,Yes.\n".encode("utf-16"))
    with pytest.raises(UserError, match="iconv -f utf-16"):
        init_profile.write(tmp_path / "other.csv", tmp_path / "mine.yaml")


def test_a_column_of_a_csv_file_may_stand_in_brackets(tmp_path: Path) -> None:
    values = [{"[id]": n, "# rows": 1, **row} for n, row in enumerate(rows())]
    assert "column '[id]'" not in written_for(table(tmp_path / "own.csv", values))


UNKNOWN_SHAPE = {"prompt": "Rain?", "answers": [{"text": "Yes."}]}
ULTRAFEEDBACK = {"instruction": "Rain?", "completions": [{"response": "Yes.", "annotations": {"helpfulness": {"Rating": "4"}}}]}
SAFERLHF = {"prompt": "Rain?", "response_0": "Yes.", "response_1": "No."} | {
    f"{of}_{n}{end}": 1 for n in (0, 1) for of, end in (("is_response", "_safe"), ("response", "_severity_level"))
}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ULTRAFEEDBACK, r"records of ultrafeedback.*--set data\.source=ultrafeedback"),
        (SAFERLHF, r"--set data\.source=pku-saferlhf"),
        (UNKNOWN_SHAPE, "no column of answers"),
    ],
)
def test_records_of_a_set_that_has_a_name_are_told_by_it(record: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"(?s){words}") as told:
        init_profile.write(lines(tmp_path / "own.jsonl", [record] * 9), tmp_path / "mine.yaml")
    assert len(str(told.value).splitlines()) <= 3


def test_truth_may_be_written_as_a_word_or_a_number(tmp_path: Path, tiny_chat: Path) -> None:
    values = [{**r, "safe": (True, 0, 1, False)[n % 4]} for n, r in enumerate(rows())]
    settings = made(lines(tmp_path / "own.jsonl", values), tiny_chat)
    (safe,) = [of for of in settings.preferences.preferences if of.name == "safe"]
    assert safe.levels == ("without safe", "with safe")
    found = preview(settings, tmp_path / "cache")
    assert [sum(of.rows.values()) for of in found.levels if of.preference == "safe"] == [30, 30]


@pytest.mark.parametrize("missing", ["NA", "None", "-", "nan"])
def test_a_run_reads_as_missing_what_init_does(missing: str, tmp_path: Path, tiny_chat: Path) -> None:
    values = [{**r, "wit": missing if n % 3 == 0 else n / 7} for n, r in enumerate(rows())]
    settings = made(table(tmp_path / "own.csv", values), tiny_chat)
    found = preview(settings, tmp_path / "cache")
    assert found.refused is None and not found.bad_rows and settings.data.bad_rows == "stop"
    assert {name: sum(sum(of.rows.values()) for of in found.levels if of.preference == name) for name in ("warmth", "wit")} == {
        "warmth": 60,
        "wit": 40,
    }


def test_columns_may_be_called_as_yaml_calls_nothing_or_truth(tmp_path: Path) -> None:
    values = [{"text": r["prompt"], "summary": r["response"], **dict.fromkeys(("null", "true", "on", "1"), r["warmth"])} for r in rows()]
    init_profile.write(table(tmp_path / "own.csv", values), tmp_path / "mine one.yaml")
    made = profile.load(str(tmp_path / "mine one.yaml"))
    assert list(made.preferences.names) == ["null", "true", "on", "rating_1"]
    assert (made.data.columns.prompt, made.data.columns.response) == ("text", "summary")
    assert f"--profile '{tmp_path / 'mine one.yaml'}'" in (tmp_path / "mine one.yaml").read_text()


PIRATES = ("landlubber", "sailor", "captain")


def test_words_of_no_known_order_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [{**r, "pirate": PIRATES[n % 3].upper(), "sea": ("none", "some", "lots")[n // 3 % 3]} for n, r in enumerate(rows())]
    file = table(tmp_path / "own.csv", values)
    init_profile.write(file, tmp_path / "mine.yaml")
    said = capsys.readouterr().out
    # Half a scale would be a guess.
    assert "--levels has their order, lowest first: pirate=captain,landlubber,sailor" in said and "sea=lots,none,some" in said
    orders = [f"pirate={','.join(PIRATES)}", "sea=none, some, lots"]
    init_profile.write(file, tmp_path / "ordered.yaml", orders)
    made = profile.load(str(tmp_path / "ordered.yaml"))
    assert [(p.name, p.levels) for p in made.preferences.preferences][1:] == [("pirate", PIRATES), ("sea", ("none", "some", "lots"))]
    found = preview(made, tmp_path / "cache")
    assert {(of.preference, of.label): sum(of.rows.values()) for of in found.levels if of.preference != "warmth"} == {
        **{("pirate", word): 20 for word in PIRATES},
        **{("sea", word): rows for word, rows in (("none", 21), ("some", 21), ("lots", 18))},
    }
    for order, words in (("x=a,b", "no such column"), ("pirate=a,b", "fewer than two of these"), ("pirate=a,A", "two different words")):
        with pytest.raises(UserError, match=words):
            init_profile.write(file, tmp_path / "other.yaml", [order])


def test_a_small_model_first_learns_the_rows_answers_where_they_have_levels(tmp_path: Path) -> None:
    file = table(tmp_path / "own.csv", rows())
    init_profile.write(file, tmp_path / "mine.yaml")
    policy = profile.load(str(tmp_path / "mine.yaml")).policy
    # Thirty updates of eight rows, and no row more than ten times; of 20 prompts eight are learnt from, six a step.
    assert policy.steps == 7 and policy.average_steps == 6
    assert policy.warm_start == "conditioned_sft" and policy.sft.epochs == 10 and policy.sft.batch_size == 8
    choices = lines(tmp_path / "choices.jsonl", [{"prompt": r["prompt"], "chosen": r["response"], "rejected": "No."} for r in rows()])
    init_profile.write(choices, tmp_path / "choices.yaml")
    assert profile.load(str(tmp_path / "choices.yaml")).policy.warm_start == "none"


def test_what_was_found_is_told_to_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path / "own.csv", rows(who=lambda p, a: f"person {p}"))
    init_profile.write(file, tmp_path / "mine.yaml", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["prompts"], told["profile"]) == (60, 20, str(tmp_path / "mine.yaml"))
    assert [(of["name"], sum(of["rows"].values())) for of in told["preferences"]] == [("warmth", 60)] and "who" in told["not_used"]
    assert told["next"].endswith(f"data preview --profile {tmp_path / 'mine.yaml'}")


def test_a_run_that_labelling_would_refuse_is_not_planned(tmp_path: Path, tiny_chat: Path) -> None:
    settings = made(table(tmp_path / "own.csv", rows(3)), tiny_chat)
    with pytest.raises(UserError, match="no labelled row in the"):
        show_plan(settings, "mine.yaml", [], None, False)


def test_a_table_without_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("".join(f"What is {p}?,It is so.,{0.1 * p:.1f}\n" for p in range(1, 9)))
    with pytest.raises(UserError, match=r"the first row holds '?0.1'?, which looks like data"):
        init_profile.write(tmp_path / "own.csv", tmp_path / "mine.yaml")


def test_prompts_of_conversations_are_counted_without_their_answers(tmp_path: Path) -> None:
    assert columns.find(lines(tmp_path / "own.jsonl", [{"messages": turns(r), "warmth": r["warmth"]} for r in rows()])).prompts == 20


def test_choices_are_told_by_split(tmp_path: Path, tiny_chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [{"prompt": r["prompt"], "chosen": r["response"], "rejected": "No."} for r in rows()]
    settings = made(lines(tmp_path / "own.jsonl", values), tiny_chat)
    assert "quality: 60 choices between two answers" in capsys.readouterr().out
    found = preview(settings, tmp_path / "cache")
    assert sum(found.choices["quality"].values()) == sum(found.rows.values()) == 60
    show_preview(settings, "mine.yaml", [], False)
    assert "chosen over another" in (said := capsys.readouterr().out) and "the worse answer" not in said


def test_a_preview_shows_rows_and_nothing_of_them_reaches_the_terminal_as_a_command(
    tmp_path: Path, tiny_chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [{**r, "response": f"\x1b[2J[red]:boom:\n{r['response']}"} for r in rows()]
    settings = made(lines(tmp_path / "own.jsonl", values), tiny_chat)
    capsys.readouterr()
    found = preview(settings, tmp_path / "cache")
    assert len(found.examples) == 5 and all(example["levels"] for example in found.examples)
    show_preview(settings, "mine.yaml", [], False)
    said = capsys.readouterr().out
    assert "Examples" in said and "\x1b" not in said and said.count("[red]:boom:") == 5


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file, output = table(tmp_path / "own.csv", rows()), tmp_path / "mine.yaml"
    output.write_text("mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        init_profile.write(file, output)
    assert output.read_text() == "mine"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mine.yaml", "own.csv"]


def test_what_is_guessed_and_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [
        {"A": r["prompt"], "B": r["response"], "warmth": r["warmth"], "id": n, "team": "red blue"[n % 8]} for n, r in enumerate(rows())
    ]
    init_profile.write(table(tmp_path / "own.csv", values), tmp_path / "mine.yaml")
    told, written = capsys.readouterr().out, (tmp_path / "mine.yaml").read_text()
    for said in ("prompt is taken from column 'A'", "not used: column id", "not used: column team"):
        assert said in told
    assert "# UNCLEAR: the prompt is taken from column 'A'" in written
    assert profile.load(str(tmp_path / "mine.yaml")).data.columns.prompt == "A"


def test_a_preference_is_called_as_its_column_without_the_scale(tmp_path: Path) -> None:
    columns = {"Warmth (1-3)": "warmth", "warmth [old]": "warmth_2", "(1-3)": "rating_1_3", "Score: Wit": "wit"}
    values = [{"prompt": r["prompt"], "response": r["response"], **dict.fromkeys(columns, r["warmth"])} for r in rows()]
    init_profile.write(table(tmp_path / "own.csv", values), tmp_path / "mine.yaml")
    made = profile.load(str(tmp_path / "mine.yaml"))
    assert list(made.preferences.names) == list(columns.values())
    assert made.preferences.preferences[0].levels[0] == "low warmth"
    assert {name: label.column for name, label in made.data.columns.labels.items()} == {name: column for column, name in columns.items()}


def test_a_split_that_lacks_a_preference_is_told_with_its_prompts(tmp_path: Path, tiny_chat: Path) -> None:
    values = rows(3)
    found = preview(made(table(tmp_path / "own.csv", values), tiny_chat), tmp_path / "cache")
    assert found.refused is not None and "Prompts that it is rated for:" in found.refused
    assert len(found.refused.splitlines()) <= 3
