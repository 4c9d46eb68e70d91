"""Earlier exchanges: what this browser asked, and on request what other browsers did."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from flows.studio.history import Exchange, History
from moslim_core.report.wording import counted

LONGEST = 80


class Drawer:
    """A list to choose from; `show` gets what was chosen."""

    def __init__(self, history: History, browser: str, show: Callable[[Exchange], None]) -> None:
        self.history, self.browser, self.show = history, browser, show
        with ui.expansion("Earlier").classes("earlier").props("dense"):
            self.others = ui.switch("also of other browsers", on_change=self.renew).props("dense")
            self.entries = ui.element("ul").classes("entries")
        self.renew()

    def renew(self) -> None:
        """Read the list anew."""
        exchanges = self.history.of(self.browser)
        if self.others.value:
            exchanges = sorted([*exchanges, *self.history.others(self.browser)], key=lambda e: e.when, reverse=True)
        self.entries.clear()
        with self.entries:
            if not exchanges:
                with ui.element("li"):
                    ui.label("Nothing was asked yet.").classes("how")
            for exchange in exchanges:
                with ui.element("li"):
                    self._entry(exchange)

    def _entry(self, exchange: Exchange) -> None:
        question = " ".join(exchange.messages[-1]["content"].split())
        short = question if len(question) <= LONGEST else question[: LONGEST - 1] + "…"
        about = f"{exchange.when[:16].replace('T', ' ')} · {counted(len(exchange.answers), 'answer')} · {exchange.policy}"
        with ui.element("button").props("type=button").classes("entry").on("click", lambda: self.show(exchange)):
            ui.label(short)
            ui.label(about).classes("how")
