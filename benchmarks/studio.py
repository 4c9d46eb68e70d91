"""How long who asks in `moslim studio` waits: from the click until words are on the page, and until all answers have ended.

python benchmarks/studio.py POLICY [--questions 5] [--work-dir .moslim]

A studio is started on loopback and opened in a Chromium that is installed; each question is new, and asked side by side as the page does at
first: of the starting model and of the policy under one setting of the sliders. The first question also waits for the models to load.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Page, sync_playwright
from serve import server

QUESTIONS = (
    "How do I keep bread fresh?",
    "Why does the moon change its shape?",
    "What makes a good neighbour?",
    "How do bees find their way home?",
    "Suggest a game for a rainy afternoon.",
    "Why do leaves turn red in autumn?",
)
PATIENCE = 120_000
# Answers of the question that was asked last alone: the page takes the former ones away when it shows this.
BEGUN = """message => [...document.querySelectorAll('.asked-for')].some(e => e.textContent.includes(message))
  && [...document.querySelectorAll('.said')].some(e => e.textContent.trim())"""
ENDED = """() => document.querySelectorAll('.bars').length == document.querySelectorAll('.said').length"""


def waited(page: Page, question: str) -> tuple[float, float]:
    """Seconds from the click to the first words, and to the last answer's levels."""
    page.get_by_label("Your message").fill(question)
    asked = time.perf_counter()
    page.get_by_role("button", name="Ask").click()
    page.wait_for_function(BEGUN, arg=question, timeout=PATIENCE, polling=20)
    begun = time.perf_counter() - asked
    page.wait_for_function(ENDED, timeout=PATIENCE, polling=50)
    return begun, time.perf_counter() - asked


def main(options: argparse.Namespace) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("No Chromium was found; install one, such as `apt-get install chromium`.")
    with server(Path(options.policy), Path(options.work_dir), which="studio") as (_, url), sync_playwright() as started:
        page = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.goto(url)
        page.get_by_role("button", name="Ask").wait_for(timeout=PATIENCE)
        times = [waited(page, question) for question in QUESTIONS[: options.questions + 1]]
        answers = page.locator(".said").count()
    print(f"{options.policy}: {answers} answers side by side, seconds from the click to the first words, to the last answer's levels")
    for place, (begun, ended) in enumerate(times):
        print(f"  {'while the models load' if place == 0 else f'question {place}'}: {begun:.2f}, {ended:.2f}")
    print(f"  median of {len(times) - 1}: {median(b for b, _ in times[1:]):.2f}, {median(e for _, e in times[1:]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="a policy's folder")
    parser.add_argument("--questions", type=int, default=5, choices=range(1, len(QUESTIONS)))
    parser.add_argument("--work-dir", default=".moslim", help="where the policy's base is known")
    main(parser.parse_args())
