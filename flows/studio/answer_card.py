"""One answer on the page: it streams in, then what is found in it stands below, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from nicegui import ui

from flows.studio.bars import bars
from flows.studio.history import Given
from flows.studio.session import SYSTEMS, Targets, worded
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.report.wording import counted

NOT_RATED = 0


@dataclass(frozen=True)
class Actions:
    """What the buttons below an answer do; texts by the names of their ways to be copied."""

    go_on: Callable[[Given], None]
    rate: Callable[[Given, dict[str, int | None]], str]
    snippets: Callable[[Given], dict[str, str]]


class AnswerCard:
    """Shows an answer from its first piece; `finish` adds what is known once it ended."""

    def __init__(self, system: str, targets: Targets, schema: PreferenceSchema, actions: Actions) -> None:
        self.schema, self.actions = schema, actions
        name, colour = SYSTEMS[system]  # type: ignore[index]
        wording = worded(targets, schema)
        self.card = ui.element("article").classes("answer")
        self.card.props["aria-label"] = f"{name}, {wording}"
        with self.card:
            with ui.element("div").classes("by"):
                ui.label(name).classes(colour)
                ui.label(wording).classes("targets")
            self.text = ui.label().classes("said").props("aria-busy=true")
            self.note = ui.label("waiting for its turn …").classes("ending")
            self.below = ui.element("div").classes("below")

    def show(self, text: str) -> None:
        """The answer so far."""
        self.text.set_text(text)
        self.note.set_text("answering …")

    def finish(self, given: Given) -> None:
        """The whole answer, or as much as there is, with the reason why it ends there."""
        if self.card.is_deleted:
            return
        self.text.set_text(given.text + (" …" if given.ending and given.text else ""))
        self.text.props(remove="aria-busy")
        self.note.set_text(given.ending or counted(len(given.text.split()), "word"))
        self.note.classes("cut" if given.ending else "", remove="cut")
        self.below.clear()
        with self.below:
            if given.found:
                ui.html(bars(given.found, self.schema), sanitize=False).classes("bars")
            if given.text:
                self._buttons(given)

    def _buttons(self, given: Given) -> None:
        actions = ui.element("div").classes("actions")
        rating = ui.element("form").classes("rating").props("aria-label='Rate this answer'")
        rating.set_visibility(False)
        with actions:
            ui.button("Go on from here", on_click=lambda: self.actions.go_on(given)).props("flat dense no-caps")
            ui.button("Rate", on_click=lambda: rating.set_visibility(not rating.visible)).props("flat dense no-caps")
            if snippets := self.actions.snippets(given):
                ui.button("Copy as …", on_click=lambda: _copying(snippets)).props("flat dense no-caps")
        with rating:
            self._rating(given)

    def _rating(self, given: Given) -> None:
        """A level a preference, of all its levels: an answer may be at one that nobody may request."""
        chosen: dict[str, ui.select] = {}
        for preference in self.schema.preferences:
            options = {NOT_RATED: "not rated", **{n: f"{n} · {preference.label(n)}" for n in range(1, preference.k + 1)}}
            chosen[preference.name] = ui.select(options, value=NOT_RATED, label=preference.name).props("dense options-dense")
        told = ui.label().classes("told").props("role=status")

        def save() -> None:
            try:
                told.set_text(self.actions.rate(given, {name: level.value or None for name, level in chosen.items()}))
            except UserError as error:
                told.set_text(str(error))

        ui.button("Save the rating", on_click=save, color=None).props("dense no-caps unelevated").classes("plain")


def _copying(snippets: dict[str, str]) -> None:
    """A dialog with the answer's request, in each way to ask for it elsewhere."""
    with ui.dialog() as dialog, ui.card().classes("copying"):
        ui.label("Ask the same elsewhere").props("role=heading aria-level=2").classes("heading")
        for name, text in snippets.items():
            with ui.element("div").classes("snippet"):
                with ui.element("div").classes("by"):
                    ui.label(name)
                    _copy_button(name, text)
                ui.label(text).classes("code").props("tabindex=0")
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
    dialog.on("hide", dialog.delete)
    dialog.open()


def _copy_button(name: str, text: str) -> None:
    """Copies in the browser itself, which allows it on a press only, and not at every address."""
    button = ui.button("Copy").props("flat dense no-caps")
    button.props["aria-label"] = f"Copy {name}"
    writes = f"() => (navigator.clipboard?.writeText({json.dumps(text)}) ?? Promise.reject()).then(() => emit(true), () => emit(false))"
    refused = "The browser does not let this page copy: mark the text instead."
    button.on("click", lambda event: ui.notify(f"{name} copied" if event.args else refused), js_handler=writes)
