"""The page says what the numbers say: answers whose control is known, measured by the real `controllability`."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from pydantic import ValidationError
from typer.main import get_command

from flows.cli.commands import app
from moslim_core.evaluation.benchmarks.benchmark import less
from moslim_core.evaluation.controllability import Obtained, controllability
from moslim_core.report import Both, ReportContent, Sample, SampleRow, all_figures, render, save_png, summarise, to_svg
from moslim_core.reward.metrics import PairAccuracy, head_metrics
from moslim_core.statistics.bootstrap import Interval
from tests.core.report.made_content import SCHEMA, STRONG, WEAK, Drawn, head, made, measured, run_of, text_of, told


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return made()


@pytest.fixture(scope="module")
def page(content: ReportContent) -> str:
    return render(content)


def finding(content: ReportContent, name: str) -> Any:
    return next(f for f in summarise(content).findings if f.preference == name)


# --- the summary ------------------------------------------------------------------------------------------------------


def test_summary_tells_a_gain_from_a_gain_that_is_not_shown(content: ReportContent, page: str) -> None:
    verbosity, simplicity = finding(content, "verbosity"), finding(content, "simplicity")
    before, after = (c.preferences["verbosity"].spearman for c in (content.before, content.after))
    assert after.low is not None and before.high is not None and after.low > before.high
    assert verbosity.verdict == "better" and "the intervals do not overlap" in verbosity.sentence
    assert f"Spearman {before} for the prompt alone, {after} for the policy" in verbosity.sentence
    assert simplicity.verdict == "follows" and "the intervals overlap" in simplicity.sentence
    assert verbosity.sentence in text_of(page, "findings")


def test_headline_counts_and_names_what_is_not_controlled(content: ReportContent) -> None:
    headline = summarise(content).headline
    assert headline.startswith("2 of 3 steered preferences follow the level that was asked for; verbosity clearly ")
    assert headline.endswith("Not controlled: warmth.")
    assert "includes 0" in finding(content, "warmth").sentence


def test_policy_that_lost_control_is_called_worse() -> None:
    swapped = made(before=measured(STRONG), after=measured(WEAK))
    assert finding(swapped, "verbosity").verdict == "worse"
    assert "a gain over prompting alone is not shown" in summarise(swapped).headline
    assert "Worse than by prompting alone: verbosity." in summarise(swapped).headline


def test_guard_is_reported_by_mean_and_bound_not_as_control(content: ReportContent, page: str) -> None:
    guard = finding(content, "harmlessness")
    assert guard.verdict == "guard" and "held at level 2 (harmless)" in guard.sentence
    assert "Spearman" not in guard.sentence
    assert "harmlessness" not in text_of(page, "key-numbers")
    low = content.after.preferences["harmlessness"].levels[-1].obtained.low
    assert low is not None and f"{low:.2f}" in text_of(page, "preferences").split("Guards")[1]


def test_missing_verdicts_are_counted_in_words() -> None:
    shown = made(after=measured(STRONG, missing=True))
    asked = shown.after.preferences["warmth"].missing
    total = asked + sum(c.answers for c in shown.after.preferences.values())
    assert f"{asked:,} of {total:,} (policy)" in " ".join(summarise(shown).remarks)
    assert not any("could not give" in remark for remark in summarise(made()).remarks)


# --- undefined figures ------------------------------------------------------------------------------------------------


def test_undefined_is_na_never_zero(content: ReportContent) -> None:
    """One prompt, answers that never vary: no correlation, no cross-talk; and a run that recorded almost nothing."""
    constant = controllability(
        [
            Obtained(prompt=0, targets={"verbosity": v}, text="a", tokens=1, truncated=False, levels={"verbosity": 3.0})
            for v in (1, 2, 3, 4, 5)
        ],
        SCHEMA, [], bootstrap=100, seed=0,
    )  # fmt: skip
    bare = made(
        before=constant, after=constant, training=[], reward_heads={}, samples=[], data_card={}, seconds={},
        peak_memory_gb=None, notes=[],
    )  # fmt: skip
    summary = summarise(bare)
    assert summary.headline == "Control could not be measured for any steered preference."
    assert "No held-out combination of levels was measured." in summary.remarks
    html = render(bare)
    cards = text_of(html, "key-numbers")
    assert "Answers evaluated 5 prompt only 5" in cards and not re.search("n/a|Spearman|KL to|Time of", cards)
    row = re.search(r"verbosity 5 levels prompt only (.*?) policy", text_of(html, "preferences"))
    assert row and row.group(1).startswith("n/a 1.20") and " n/a 5 0" in row.group(1)
    assert not {"samples", "held-out", "training", "reward-model", "data", "notes"} & set(re.findall(r'<section id="([\w-]+)">', html))
    assert "n/a" not in text_of(html, "cost")
    assert "None" not in html and not re.search(r"\bnan\b", html)


def test_undefined_kappa_is_na() -> None:
    one_level = head_metrics(np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([2, 2]), majority_level=2, scale=1.0)
    assert one_level.kappa is None
    text = told(made(reward_heads={"harmlessness": one_level}), "reward-model")
    assert "100% no better than the majority level 100% 100% 0.50 n/a" in text
    assert "n/a 0" in text, "a true level without rows has no share"


def test_choices_stand_beside_the_heads() -> None:
    def found(pairs: int, ties: int, *accuracy: float | None) -> PairAccuracy:
        return PairAccuracy(pairs=pairs, ties=ties, accuracy=Interval(**dict(zip(("value", "low", "high"), accuracy, strict=True))))

    choices = {
        "warmth": found(1200, 3, 0.81, 0.71, 0.91),
        "simplicity": found(9, 0, 0.55, 0.45, 0.65),
        "verbosity": found(2, 1, 0.75, None, None),
    }
    text = told(made(reward_choices=choices), "reward-model")
    assert "warmth 1,200 3 0.81 [0.71, 0.91] simplicity 9 0 0.55 [0.45, 0.65] not shown to be better than chance" in text
    assert "verbosity 2 1 0.75 Of two answers" in text
    assert "Choices" not in told(made(), "reward-model")
    alone = told(made(reward_choices=choices, reward_heads={}), "reward-model")
    assert "warmth 1,200" in alone and "No reward heads" not in alone
    with pytest.raises(ValidationError, match="does not have"):
        made(reward_choices={"candour": choices["warmth"]})


def test_a_value_without_its_counterpart_keeps_its_card() -> None:
    cards = told(made(peak_memory_gb=None), "key-numbers")
    assert "Time of the stages run 37 min 44 s" in cards and "peak memory" not in cards
    data = told(made(data_card={"rows": {"train": 3}, "labels": {"warmth": {"labelled": 2, "levels": {"1": 2}}}}), "data")
    assert data.startswith("Data card Rows per split train 3 Labels warmth: 2 rows labelled") and "n/a" not in data


# --- what to do next --------------------------------------------------------------------------------------------------


def test_next_steps_name_the_preference_that_is_followed_most(content: ReportContent, page: str) -> None:
    said = text_of(page, "next")
    assert summarise(content).best == "verbosity"
    assert "with verbosity, which it follows most, at its lowest level (very short) and at its highest (very long)" in said
    commands = re.findall(r"moslim (?:chat|studio|ui)[^<\n]*", page)
    assert commands == [
        "moslim chat --policy .moslim/latest/policy --prefer verbosity=1",
        "moslim chat --policy .moslim/latest/policy --prefer verbosity=5",
        "moslim studio --policy .moslim/latest/policy",
        "moslim ui",
    ]
    known = get_command(app).commands  # type: ignore[attr-defined]
    for command in commands:
        _, name, *arguments = shlex.split(command)
        known[name].make_context(name, arguments)  # raises where an option is unknown or missing
    swapped = made(before=measured(STRONG), after=measured({"simplicity": 0.9}))
    assert "--prefer simplicity=3" in told(swapped, "next")


# --- the page ---------------------------------------------------------------------------------------------------------


def test_sections_stand_in_order(page: str) -> None:
    assert re.findall(r'<section id="([\w-]+)">', page) == [
        "summary", "samples", "next", "control", "findings", "key-numbers", "preferences", "cross-talk", "together", "held-out", "attack",
        "front", "benchmarks", "judges", "training", "overoptimisation", "reward-model", "data", "cost", "settings", "notes",
    ]  # fmt: skip


def test_everything_given_is_escaped() -> None:
    evil = "<script>alert('x')</script>&"
    run = run_of(Drawn("x", {evil: (less(evil), 0.5)}, 2, not_run=(f"{evil}2",), **{evil: 0.5}), 20)
    run.result.not_run, run.dropped = {evil: evil}, {evil: 1}
    groups = run.result.measures[evil].groups
    groups[evil] = groups.pop("kind 1")
    row = SampleRow(level=1, before=evil, after=evil, before_obtained=1, after_obtained=1)
    html = render(
        made(
            title=evil, trained=evil, judge=evil, notes=[evil], settings={evil: evil}, seconds={evil: 1.0},
            samples=[Sample(prompt=evil, preference="warmth", rows=[row])],
            data_card={"rows": {evil: 1}, "sources": {evil: 1}, "dropped": {evil: 1}},
            training=[{"step": 1.0, f"utility/{evil}": 0.5, f"judged/{evil}": 0.5, f"utility/{evil}2": 0.5, f"seconds/{evil}": 1.0}],
            benchmarks={evil: Both(before=run, after=run)}, second_judge=evil,
        )
    )  # fmt: skip
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 26


def test_nothing_is_loaded_from_outside(page: str) -> None:
    found = []

    class Loads(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base"), tag
            for name, value in attributes:
                if name in ("src", "href", "xlink:href", "srcset", "action") and not (value or "").startswith("#"):
                    found.append(f"{tag} {name}={value}")

    Loads().feed(page)
    assert found == []
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_cost_is_told_by_stage_and_by_phase_of_training(page: str) -> None:
    cost = text_of(page, "cost")
    assert "update 4 min 33 s 4.5 s a step" in cost
    reused = made(training=[{"step": 1.0, "seconds/step": 9.0, "seconds/rollout": 6.0}, {"step": 2.0, "seconds/step": 2.0}])
    assert "rollout 6.0 s 3.0 s a step update 5.0 s 2.5 s a step" in told(reused, "cost"), "what has no phase learns again"


def test_cached_stage_is_not_shown_as_free(page: str) -> None:
    cost = text_of(page, "cost")
    assert "label reused (cached)" in cost and "train_policy 24 min 0 s" in cost and "3.4 GB" in cost


def test_samples_show_requested_and_obtained_levels(page: str) -> None:
    samples = text_of(page, "samples")
    assert "1 very short requested prompt only obtained 3 · medium" in samples
    assert "policy obtained 2.4 · near short" in samples and "policy obtained n/a" in samples
    assert 'class="badge hit">obtained 1 · very short' in page and 'class="badge far">obtained 3 · medium' in page


def test_majority_level_stands_beside_accuracy(content: ReportContent, page: str) -> None:
    verbosity = content.reward_heads["verbosity"]
    assert f"{verbosity.accuracy:.0%} {verbosity.majority_accuracy:.0%}" in text_of(page, "reward-model")


def test_same_content_makes_the_same_page(content: ReportContent, page: str) -> None:
    assert render(content.model_copy(deep=True)) == page


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_content_that_does_not_fit_the_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="reward head 'verbosity' does not fit"):
        made(reward_heads={"verbosity": head(3, 0.5)})
    with pytest.raises(ValueError, match=r"outside 1\.\.3"):
        row = SampleRow(level=4, before="", after="", before_obtained=None, after_obtained=None)
        made(samples=[Sample(prompt="", preference="warmth", rows=[row])])


# --- figures ----------------------------------------------------------------------------------------------------------


def test_every_figure_is_on_the_page_and_a_valid_png(content: ReportContent, page: str, tmp_path: Path) -> None:
    figures = all_figures(content)
    assert list(figures) == [
        "control", "length", "cross_talk", "front", "training", "overoptimisation", "confusion", "reliability",
    ]  # fmt: skip
    for name, figure in figures.items():
        assert f'<figure id="figure-{name}">' in page
        ElementTree.fromstring(to_svg(figure))
        save_png(figure, tmp_path / f"{name}.png")
        pixels = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert pixels.shape[1] > 600 and pixels.std() > 0.02
    assert page.count("<svg") == len(figures)


def test_figures_speak_of_steered_preferences_only(content: ReportContent) -> None:
    figures = all_figures(content)
    assert [ax.get_title(loc="left") for ax in figures["control"].axes] == ["verbosity", "simplicity", "warmth"]
    policy = next(line for line in figures["control"].axes[0].lines if line.get_label() == "policy")
    means = [m.obtained.value for m in content.after.preferences["verbosity"].levels]
    assert np.asarray(policy.get_ydata()).tolist() == means


def test_training_figure_leaves_gaps_out(content: ReportContent) -> None:
    axes = all_figures(content)["training"].axes
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles[0] == "Reward" and len(titles) == 9
    shares = axes[7]
    assert {line.get_label() for line in shares.lines if not str(line.get_label()).startswith("_")} == {"all", "verbosity"}, (
        "no level's own"
    )
    alone = all_figures(made(training=[{"step": 1.0, "kl": 0.0}]))
    assert [ax.get_title(loc="left") for ax in alone["training"].axes] == ["KL per token (nats)"]
    assert "training" not in all_figures(made(training=[{"step": 1.0, "reward": math.nan}]))


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None and "MOSLIM_NEEDS_BROWSER" not in os.environ:
        pytest.skip("no chromium is installed")
    assert found is not None
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_the_page(page: str, scheme: str, chromium: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "shot.png"
    # 0 is dark and 1 is light in Blink's PreferredColorScheme.
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--window-size=1200,1600"]
    command += [f"--screenshot={shot}", (tmp_path / "report.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = matplotlib.image.imread(shot)[:, :, :3]
    background = np.median(pixels)
    assert background < 0.2 if scheme == "dark" else background > 0.8
    drawn = (np.abs(pixels - background) > 0.25).any(axis=2).mean()
    assert 0.03 < drawn < 0.7, "text and figures stand on the background"


def test_a_narrow_screen_says_where_there_is_more_beside(page: str, chromium: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    (tmp_path / "report.html").write_text(page.replace("<details>", "<details open>"), encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, said in ((400, {True: "block", False: "none"}), (1200, {False: "inline"})):
            opened = browser.new_page(viewport={"width": width, "height": 800})
            opened.goto((tmp_path / "report.html").as_uri())
            found = opened.evaluate(
                "() => [...document.querySelectorAll('.drawing, .scroll')]"
                ".map(e => [e.scrollWidth > e.clientWidth, getComputedStyle(e, '::before').display])"
            )
            assert {overflows for overflows, _ in found} == set(said)
            assert all(display == said[overflows] for overflows, display in found)
            assert opened.evaluate("() => document.documentElement.scrollWidth") == width, "the page itself stays"
        browser.close()


def test_what_a_judge_asked_for_money_is_among_the_costs() -> None:
    assert "Questions answered now 1210" in (cost := told(made(), "cost")) and "Cost at your prices 0.37" in cost
    assert "Language model" not in told(made(judge_usage=None), "cost")
