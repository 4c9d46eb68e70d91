"""The page of one visitor: settings, conversation, answers side by side, and what was asked before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from nicegui import ui

from flows.cli.printed_commands import command
from flows.studio import snippets, training_profile
from flows.studio.answer_card import Actions, AnswerCard
from flows.studio.bars import LEGEND
from flows.studio.earlier_exchanges import Drawer
from flows.studio.history import Exchange, Given, History
from flows.studio.loaded_models import Opened, Workshop
from flows.studio.preset_picture import PresetPicture
from flows.studio.ratings import Ratings
from flows.studio.session import MODES, SETTINGS, Asked, Drawn, Session, steered
from flows.studio.settings_panel import Sliders
from moslim_core.errors import UserError
from moslim_core.policy.generation import Answer
from moslim_core.preferences import Message
from moslim_core.report.wording import counted

log = logging.getLogger(__name__)

# Sends on Enter; with Shift it begins a new line, and inside an input method it chooses a word.
_ON_ENTER = "(e) => { if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); emit(); } }"


class Page:
    """Everything that one visitor sees and has set. Made anew for each; `workshop` is all that pages share."""

    def __init__(self, workshop: Workshop, home: Path, opened: Opened, browser: str) -> None:
        self.workshop, self.home, self.browser = workshop, home, browser
        self.history = History(home / "history.jsonl")
        self.running: asyncio.Task[None] | None = None
        self.gone = False
        self._take(opened)

    def build(self) -> None:
        """Put everything on the page."""
        with ui.element("header"):
            ui.label("MOSLIM studio").props("role=heading aria-level=1").classes("title")
            self._policies()
        with ui.element("div").classes("studio"):
            with ui.element("section").props("aria-label='What is asked for'").classes("panel"):
                self.panel = ui.element("div")
                self._drawing()
            with ui.element("section").props("aria-label='Conversation and answers'").classes("talk"):
                self.said = ui.element("div").classes("conversation").props("aria-label='Conversation so far'")
                self._message()
                ui.skip_link("Skip to the message", target=self.message)
                self.alert = ui.label().classes("alert").props("role=alert")
                self.answers = ui.element("div").classes("side-by-side")
                ui.label(LEGEND).classes("how legend")
                self.drawer = Drawer(self.history, self.browser, self._show)
        self._settings()
        self._conversation()

    def stop(self) -> None:
        """End what is being answered."""
        if self.running is not None:
            self.running.cancel()

    def leave(self) -> None:
        """The visitor is gone: nothing is drawn or shown any more."""
        self.gone = True
        self.stop()

    def _take(self, opened: Opened) -> None:
        self.opened = opened
        self.session = Session(opened.schema)
        self.ratings = Ratings(self.home, opened.schema)

    # What is asked for

    def _policies(self) -> None:
        self.titles = {choice.reference: choice.title for choice in self.workshop.choices()}
        self.titles.setdefault(self.opened.reference, self.opened.reference)
        picked = ui.select(self.titles, value=self.opened.reference, label="Policy", on_change=lambda e: self._change(e.value))
        picked.classes("policies").props("dense options-dense")

    async def _change(self, reference: str) -> None:
        if self.running is not None:
            self.stop()
            await asyncio.wait([self.running])
        self._told(f"Loading {self.titles[reference]} …")
        try:
            opened = await asyncio.to_thread(self.workshop.open, reference)
        except UserError as error:
            self._told(str(error), wrong=True)
            return
        self._take(opened)
        self.answers.clear()
        self._settings()
        self._conversation()
        self._told(f"{self.titles[reference]} answers from now on.")

    def _settings(self) -> None:
        self.panel.clear()
        modes = {mode: said for mode, said in MODES.items() if mode != "row" or self.session.row}
        with self.panel:
            ui.label("Compare").classes("heading").props("role=heading aria-level=2")
            ui.radio(modes, value=self.session.mode, on_change=lambda e: self._compare(e.value)).props("dense aria-label=Compare")
            names = [p.name for p in steered(self.session.schema)]
            self.row = ui.select(names, value=self.session.row or None, label="Preference", on_change=lambda e: self._row(e.value))
            self.row.props("dense")
            self.sliders: dict[str, Sliders] = {}
            self.blocks: dict[str, ui.element] = {}
            for setting in SETTINGS:
                with ui.element("div").classes("setting") as self.blocks[setting]:
                    ui.label(f"Setting {setting}").classes("heading").props("role=heading aria-level=2")
                    self.sliders[setting] = Sliders(self.session, setting)
            if (fronts := self.opened.fronts()) is not None:
                PresetPicture(fronts, self.session.schema, self._use)
        self._arrange()

    def _compare(self, mode: str) -> None:
        self.session.compare(mode)
        self._arrange()

    def _row(self, name: str) -> None:
        self.session.row = name
        self._arrange()

    def _arrange(self) -> None:
        """Show the settings that the comparison needs."""
        in_row = self.session.mode == "row"
        self.row.set_visibility(in_row)
        self.blocks["B"].set_visibility(self.session.mode == "two")
        self.sliders["A"].all_levels_of(self.session.row if in_row else None)

    def _use(self, levels: dict[str, int]) -> None:
        """A point of the front was chosen."""
        self.session.use("A", {name: level for name, level in levels.items() if not self.session.schema[name].is_guard})
        self.sliders["A"].use(self.session.settings["A"])

    def _drawing(self) -> None:
        usual = Drawn()
        with ui.expansion("How answers are drawn").props("dense"):
            self.temperature = ui.number("Temperature (0 is greedy)", value=usual.temperature, min=0, max=5, step=0.1).props("dense")
            self.longest = ui.number("Longest answer in tokens (empty: as trained)", min=1, precision=0).props("dense")
            self.seed = ui.number("Seed", value=usual.seed, min=0, precision=0).props("dense")

    def _drawn(self) -> Drawn:
        temperature, longest, seed = self.temperature.value, self.longest.value, self.seed.value
        return Drawn(float(temperature or 0), int(longest) if longest else None, int(seed or 0))

    # The conversation

    def _message(self) -> None:
        self.message = ui.textarea("Your message").props("autogrow outlined").classes("message")
        self.message.on("keydown", self.ask, js_handler=_ON_ENTER)
        with ui.element("div").classes("ask"):
            self.button = ui.button("Ask", on_click=self.ask, color=None).props("unelevated no-caps").classes("plain")
            self.stopping = ui.button("Stop", on_click=self.stop).props("flat no-caps")
            self.stopping.set_visibility(False)
            self.status = ui.label().classes("how").props("role=status")

    def _conversation(self) -> None:
        self.said.clear()
        self.said.set_visibility(bool(self.session.said))
        with self.said:
            for message in self.session.said:
                with ui.element("blockquote"):
                    ui.label("you" if message["role"] == "user" else "policy").classes("how")
                    ui.label(message["content"])
            ui.button("Begin anew", on_click=self._begin_anew).props("flat dense no-caps")

    def _begin_anew(self) -> None:
        self.session.begin_anew()
        self._conversation()

    def _told(self, text: str, wrong: bool = False) -> None:
        """Say something in the place for news, or for what went wrong."""
        self.status.set_text("" if wrong else text)
        self.alert.set_text(text if wrong else "")

    # Answers

    async def ask(self) -> None:
        """Ask for all answers of the comparison at once."""
        if self.running is not None:
            return
        try:
            messages = self.session.saying(self.message.value or "")
        except UserError as error:
            self._told(str(error), wrong=True)
            return
        self.running = asyncio.current_task()
        self.button.set_enabled(False)
        self.stopping.set_visibility(True)
        try:
            await self._ask(messages, self.session.asks())
        finally:
            self.running = None
            if not self.gone:
                self.button.set_enabled(True)
                self.stopping.set_visibility(False)

    async def _ask(self, messages: list[Message], asks: Sequence[Asked]) -> None:
        opened, drawn = self.opened, self._drawn()
        self._told(f"Asking for {counted(len(asks), 'answer')} …")
        self.answers.clear()
        with self.answers:
            ui.label(messages[-1]["content"]).classes("asked-for")
            with ui.element("div").classes("cards"):
                cards = [AnswerCard(*request, opened.schema, self._actions(opened, messages, drawn)) for request in asks]
        answering = [
            asyncio.create_task(self._answer(opened, request, messages, drawn, card)) for request, card in zip(asks, cards, strict=True)
        ]
        try:
            given = await asyncio.gather(*answering)
        except asyncio.CancelledError:
            for task in answering:
                task.cancel()
            given = await asyncio.gather(*answering)
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        answers = [g for g in given if g.text]
        exchange = Exchange(when=when, browser=self.browser, policy=opened.reference, messages=messages, drawn=drawn, answers=answers)
        wrong = self._keep(exchange) if answers else ""
        if not self.gone:
            self.drawer.renew()
            self._told(f"{counted(len(answers), 'answer')} of {len(given)}.")
            self.alert.set_text(wrong)

    def _keep(self, exchange: Exchange) -> str:
        """Write it to the history; what went wrong, '' where nothing did."""
        try:
            self.history.add(exchange)
        except UserError as error:
            return str(error)
        return ""

    async def _answer(self, opened: Opened, request: Asked, messages: list[Message], drawn: Drawn, card: AnswerCard) -> Given:
        """An answer while it is drawn, whatever ends it: it says so where that is not the answer's own end."""
        given = Given(system=request.system, targets=request.targets, text="")
        try:
            async for item in opened.answer(request, messages, drawn):
                if isinstance(item, Answer):
                    given.text = item.text
                    if item.truncated:
                        given.ending = f"cut at the limit of {counted(item.tokens, 'token')}"
                    elif not given.text:
                        given.ending = "an empty answer: the model ended it at once"
                else:
                    given.text += item
                    card.show(given.text)
            if given.text:
                given.found = await asyncio.to_thread(opened.find, messages, given.text, request)
        except asyncio.CancelledError:
            given.ending = "stopped before its end"
        except UserError as error:
            given.ending = f"no answer: {error}"
        except Exception as error:  # an answer of which nobody hears why it ends would look whole
            log.exception("an answer failed")
            given.ending = f"it ended here by an error: {error}"
        card.finish(given)
        return given

    def _actions(self, opened: Opened, messages: list[Message], drawn: Drawn) -> Actions:
        """Of answers to `messages`, whatever is on the page when a button is pressed."""
        ratings = self.ratings

        def go_on(given: Given) -> None:
            self.session.go_on_from(messages, given.text)
            self.message.set_value("")
            self._conversation()
            self.message.run_method("focus")

        def rate(given: Given, levels: dict[str, int | None]) -> str:
            rows = ratings.add(messages, given.text, levels)
            saved = f"Saved: {counted(rows, 'rated answer')} in {ratings.file}"
            return f"{saved}\nTo learn from them: {_to_learn(opened, ratings, self.workshop.work_dir)}"

        def copies(given: Given) -> dict[str, str]:
            arguments = (messages, given.targets, drawn)
            base = self.workshop.base
            if given.system == "start":
                # No command asks the starting model in the policy's words.
                return {}
            return {
                "curl": snippets.curl(opened.reference, *arguments),
                "Python": snippets.python(str(opened.folder), *arguments, base),
                "moslim chat": snippets.chat(opened.reference, *arguments, str(self.workshop.work_dir), base),
            }

        return Actions(go_on, rate, copies)

    def _show(self, exchange: Exchange) -> None:
        """Put an earlier exchange on the page, and its conversation before the next message."""
        if self.running is not None:
            self._told("Answers are being drawn: stop them first.", wrong=True)
            return
        try:
            self._shown(exchange)
        except UserError:
            self._told(f"That was asked of {exchange.policy}, which has other preferences: choose it above first.", wrong=True)

    def _shown(self, exchange: Exchange) -> None:
        for given in exchange.answers:
            self.opened.schema.targets(given.targets)
        self.session.said = list(exchange.messages[:-1])
        self.message.set_value(exchange.messages[-1]["content"])
        self._conversation()
        self.answers.clear()
        actions = self._actions(self.opened, exchange.messages, exchange.drawn)
        with self.answers:
            ui.label(exchange.messages[-1]["content"]).classes("asked-for")
            with ui.element("div").classes("cards"):
                for given in exchange.answers:
                    card = AnswerCard(given.system, given.targets, self.opened.schema, actions)
                    card.finish(given)
        self._told(f"Asked {exchange.when[:16].replace('T', ' ')} of {exchange.policy}.")


def _to_learn(opened: Opened, ratings: Ratings, work_dir: Path) -> str:
    """The command that labels the ratings beside the rows that trained the policy, or why there is none."""
    try:
        profile = training_profile.write(opened.lineage.settings, ratings, work_dir)
    except UserError as error:
        return str(error)
    if profile is None:
        return "no run on record says how the policy was trained: give the file to a profile of yours, as data.source=jsonl and data.path."
    return command("label", "--profile", str(profile))
