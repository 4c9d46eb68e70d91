"""The page in a real browser, as a visitor uses it."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli.printed_commands import command
from flows.studio.ratings import FILE
from moslim_core.data.rows import read_json_lines
from moslim_core.data.settings import DataSettings
from moslim_core.data.sources import open_sources
from moslim_core.policy.open_batch import OpenBatch
from tests.studio.made import RUN_NAME, SCHEMA

pytest.importorskip("nicegui", reason="the extra `studio` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SKIPPED = CHROMIUM is None and "MOSLIM_NEEDS_BROWSER" not in os.environ
pytestmark = [pytest.mark.browser, pytest.mark.skipif(SKIPPED, reason="no chromium is installed")]
# Of a machine that others use, too.
PATIENCE = 60_000
# Nothing that can be used is without a name for who hears the page.
NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, [role=combobox], [role=img], [role=radio]')]
  .filter(e => e.checkVisibility() && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.closest('label')))
  .map(e => e.outerHTML.slice(0, 200))"""


class Studio:
    """A server in a thread of this process, which has loaded already what one of its own would wait for."""

    def __init__(self, work_dir: Path) -> None:
        import uvicorn

        from flows.studio.loaded_models import Workshop, newest
        from flows.studio.server import application

        self.home = work_dir / "studio"
        workshop = Workshop(work_dir)
        app = application(workshop, self.home, newest(workshop.choices()))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def studio(work_dir: Path) -> Iterator[Studio]:
    running = Studio(work_dir)
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(studio: Studio, browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page as another visitor; what goes wrong in the browser fails the test."""
    contexts, wrong = [], []

    def visit(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith((studio.address, "data:")) else wrong.append(request.url))
        page.goto(studio.address)
        page.get_by_role("button", name="Ask").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


def slider(page: Any, preference: str, setting: str = "A") -> Any:
    return page.get_by_role("slider", name=f"{preference}, setting {setting}")


def ask(page: Any, message: str, answers: int) -> list[str]:
    """The texts of the answers, once what is found in them is there, too."""
    page.get_by_label("Your message").fill(message)
    page.get_by_role("button", name="Ask").click()
    page.locator(".asked-for").filter(has_text=message).wait_for()
    page.get_by_role("status").filter(has_text=f"of {answers}.").first.wait_for()
    assert page.locator(".bars").count() == answers
    return page.locator(".said").all_inner_texts()


def test_sliders_move_and_answers_stream_side_by_side(visit: Callable[..., Any]) -> None:
    page = visit()
    slider(page, "warmth").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.get_by_text("2 · warm", exact=True).wait_for()
    assert slider(page, "warmth").get_attribute("aria-valuetext") == "2 · warm"
    page.get_by_text("■ held at 2 · harmless").first.wait_for()
    assert slider(page, "harmlessness").count() == 0
    page.evaluate(
        "() => { window.lengths = new Set(); new MutationObserver(() => document.querySelectorAll('.said').forEach("
        "e => lengths.add(e.textContent.length))).observe(document.body, {subtree: true, childList: true, characterData: true}); }"
    )
    start, policy = ask(page, "Rain?", 2)
    assert start != policy
    assert page.evaluate("window.lengths.size") > 4, "answers came in one piece"
    assert page.locator(".answer .by").all_inner_texts()[1].split("\n") == ["policy", "warmth 2 · warm, harmlessness 2 · harmless"]
    for card in page.locator(".answer").all():
        note, text = card.locator(".ending").inner_text(), card.locator(".said").inner_text()
        assert note.endswith(("word", "words")) != text.endswith("…")
        assert note == "cut at the limit of 24 tokens" or not text.endswith("…")
    assert page.locator(".found .badge").first.inner_text().startswith("obtained ")


def test_two_settings_and_a_whole_row_are_compared_and_a_point_of_the_front_sets_the_sliders(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("radio", name="Two settings").click()
    slider(page, "verbosity", "B").fill("3")
    first, second = ask(page, "Snow?", 2)
    assert first != second
    page.get_by_role("button", name="Point 2").focus()
    page.keyboard.press("Enter")
    # The server tells the words and the position apart.
    page.get_by_text("2 · medium", exact=True).wait_for()
    for name in ("verbosity", "warmth"):
        playwright.expect(slider(page, name)).to_have_value("2")
    assert slider(page, "verbosity", "B").input_value() == "3"
    page.get_by_role("radio", name="All levels of one preference").click()
    page.get_by_text("all levels", exact=True).wait_for()
    assert slider(page, "verbosity").is_disabled()
    assert len(set(ask(page, "Snow?", 3))) == 3
    assert [by.split("\n")[1][:11] for by in page.locator(".answer .by").all_inner_texts()] == [f"verbosity {n}" for n in (1, 2, 3)]


def test_a_rating_is_a_row_that_labelling_reads(visit: Callable[..., Any], studio: Studio) -> None:
    page = visit()
    page.get_by_role("radio", name="One setting").click()
    (answer,) = ask(page, "Rate <this>?", 1)
    page.get_by_role("button", name="Rate").click()
    page.get_by_role("button", name="Save the rating").click()
    page.get_by_text("Nothing is rated yet").wait_for()
    page.locator(".rating").get_by_label("warmth").click()
    page.get_by_role("option", name="1 · cold").click()
    page.get_by_role("button", name="Save the rating").click()
    told = page.get_by_text("Saved: 1 rated answer").inner_text()
    (profile,) = studio.home.glob("training/*/profile.yaml")
    assert told.endswith(command("label", "--profile", str(profile)))
    assert page.get_by_role("combobox", name="Policy").input_value().startswith(f"policy@champion, version 1 · {RUN_NAME}")
    (file,) = studio.home.glob(f"ratings/*/{FILE}")
    (row,) = [row for _, row in read_json_lines(file)]
    assert (row["prompt"], row["warmth"], row["verbosity"]) == ("Rate <this>?", 1, None)
    assert answer.removesuffix(" …").split() == row["response"].split()
    (source,) = open_sources(DataSettings(source=["jsonl"], path=file), SCHEMA)
    (rated,) = source.rows()
    assert (rated.row.labels, rated.row.source, rated.row.response) == ({"warmth": 1}, "studio", row["response"])


def test_a_conversation_goes_on_and_is_found_again_by_who_had_it_alone(visit: Callable[..., Any]) -> None:
    page, other = visit(), visit()
    page.get_by_role("radio", name="One setting").click()
    (answer,) = ask(page, "First of mine?", 1)
    page.get_by_role("button", name="Go on from here").click()
    page.locator(".conversation blockquote").nth(1).wait_for()
    # The page empties the message after it shows the conversation, and then puts the cursor there.
    message = playwright.expect(page.get_by_label("Your message"))
    message.to_be_focused(timeout=PATIENCE)
    message.to_have_value("")
    ask(page, "Second of mine?", 1)
    page.get_by_role("button", name="Copy as").click()
    page.get_by_role("button", name="Copy curl").wait_for()
    copied = page.locator(".code").all_inner_texts()
    assert len(copied) == 3 and "First of mine?" in copied[1] and "--message=Second of mine?" in copied[2]
    page.get_by_role("button", name="Close").click()
    page.reload()
    page.get_by_text("Earlier", exact=True).click()
    assert [entry.split("\n")[0] for entry in page.locator(".entry").all_inner_texts()] == ["Second of mine?", "First of mine?"]
    page.locator(".entry").last.click()
    page.locator(".answer .said").filter(has_text=answer[:5]).wait_for()
    message.to_have_value("First of mine?", timeout=PATIENCE)
    other.get_by_text("Earlier", exact=True).click()
    other.get_by_text("Nothing was asked yet.").wait_for()
    assert "of mine?" not in other.locator("body").inner_text()


def test_it_fits_a_phone_suits_the_dark_and_names_all_its_parts(visit: Callable[..., Any]) -> None:
    page = visit(viewport={"width": 400, "height": 800}, color_scheme="dark")
    ask(page, "Averyveryverylongwordwithoutanyplacetobreak" * 4, 2)
    page.get_by_role("button", name="Rate").first.click()
    page.get_by_text("Earlier", exact=True).click()
    page.get_by_text("How answers are drawn").click()
    page.get_by_label("Seed").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert page.evaluate(NAMELESS) == []


def test_stopping_says_so_and_an_error_ends_no_page(visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # A tiny model would be through before the click.
    draw = OpenBatch.draw
    monkeypatch.setattr(OpenBatch, "draw", lambda batch: (time.sleep(0.05), draw(batch))[1])
    page = visit()
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").filter(has_text="There is no message yet").wait_for()
    page.get_by_text("How answers are drawn").click()
    longest = page.get_by_label("Longest answer in tokens")
    longest.fill("9999")
    longest.blur()
    page.get_by_label("Your message").fill("Rain?")
    page.keyboard.press("Enter")
    page.get_by_text("is longer than the model reads").first.wait_for()
    longest.fill("400")
    longest.blur()
    page.get_by_role("button", name="Ask").click()
    began = time.monotonic()
    page.locator(".ending").filter(has_text="answering").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped before its end").first.wait_for()
    assert time.monotonic() - began < PATIENCE / 1000
    page.get_by_role("button", name="Ask").wait_for()
