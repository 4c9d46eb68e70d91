"""The front of the policy's evaluation, small: each of its points is a button that sets the sliders."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from flows.studio.loaded_models import Fronts
from flows.studio.presets import Preset, Span, presets, shown
from moslim_core.preferences import PreferenceSchema
from moslim_core.report.wording import number


class PresetPicture:
    """Mean scores of two preferences at the operating points, the policy's to choose from and the starting model's beside them."""

    def __init__(self, fronts: Fronts, schema: PreferenceSchema, choose: Callable[[dict[str, int]], None]) -> None:
        self.fronts, self.schema, self.choose = fronts, schema, choose
        self.across, self.up = shown(fronts.after)
        names = list(fronts.after.reference)
        ui.label("Points of the front: choose one to set the sliders. Right and up is better.").classes("how")
        if len(names) > 2:
            with ui.element("div").classes("axes"):
                ui.select(names, value=self.across, label="across", on_change=lambda e: self._turn(e.value, self.up)).props("dense")
                ui.select(names, value=self.up, label="up", on_change=lambda e: self._turn(self.across, e.value)).props("dense")
        self.plane = ui.element("div").classes("plane").props("role=group aria-label='Points of the front'")
        self._draw()

    def _turn(self, across: str, up: str) -> None:
        self.across, self.up = across, up
        self.plane.clear()
        self._draw()

    def _draw(self) -> None:
        steered = presets(self.fronts.after, self.schema, self.across, self.up)
        prompted = presets(self.fronts.before, self.schema, self.across, self.up) if self.fronts.before else []
        if not steered:
            return
        x, y = (Span.of([getattr(point, of) for point in (*steered, *prompted)]) for of in ("x", "y"))
        with self.plane:
            ui.label(f"{self.up} {number(y.low)} to {number(y.high)} ↑").classes("up")
            ui.label(f"{self.across} {number(x.low)} to {number(x.high)} →").classes("across")
            for point in (*prompted, *steered):
                place = f"left:{100 * x.share(point.x):.1f}%;bottom:{100 * y.share(point.y):.1f}%"
                (self._button if point in steered else self._mark)(point, place)

    def _mark(self, point: Preset, place: str) -> None:
        ui.element("span").classes("point start").style(place).props("aria-hidden=true").tooltip(f"prompt only. {point.said}")

    def _button(self, point: Preset, place: str) -> None:
        button = ui.element("button").classes("point policy" + ("" if point.non_dominated else " hollow")).style(place)
        button.props["type"], button.props["aria-label"] = "button", point.said
        button.on("click", lambda: self.choose(point.levels))
        with button:
            ui.label(point.name)
            ui.tooltip(point.said)
