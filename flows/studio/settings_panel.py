"""The sliders of one setting: a preference each, from open over its lowest level to its highest; guards stand fixed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from nicegui import ui

from flows.studio.session import Session, at_level
from moslim_core.preferences import Preference


class Slider(ui.element):
    """The browser's own slider, which hands and screen readers know; it says its position in `words`.

    The browser keeps the position: one that the server sent back would undo what a hand did meanwhile.
    """

    def __init__(self, label: str, words: list[str], position: int, moved: Callable[[int], None]) -> None:
        super().__init__("input")
        self.words = words
        self._props.update(
            {"type": "range", "min": 0, "max": len(words) - 1, "step": 1, "^value": position, "aria-label": label,
             "^aria-valuetext": words[position]}
        )  # fmt: skip
        said = f"(e) => {{ e.target.setAttribute('aria-valuetext', {json.dumps(words)}[e.target.value]); emit(+e.target.value); }}"
        self.on("input", lambda event: moved(int(event.args)), js_handler=said)

    def put(self, position: int) -> None:
        """Move it, without telling."""
        ui.run_javascript(
            f"const slider = getHtmlElement({self.id}); slider.value = {position};"
            f"slider.setAttribute('aria-valuetext', {json.dumps(self.words[position])});"
        )

    def use(self, used: bool) -> None:
        """Let it be moved, or not."""
        self._props["disabled"] = not used
        self.update()


class Sliders:
    """The sliders of `setting`, which write to the session."""

    def __init__(self, session: Session, setting: str) -> None:
        self.session, self.setting = session, setting
        self._sliders: dict[str, tuple[Slider, ui.label]] = {}
        for preference in session.schema.preferences:
            with ui.element("div").classes("preference"):
                if preference.is_guard:
                    _guard(preference)
                else:
                    self._slider(preference)

    def use(self, levels: Mapping[str, int]) -> None:
        """Put the sliders as `levels` has them; what it does not name is open."""
        for name, (slider, level) in self._sliders.items():
            preference = self.session.schema[name]
            slider.put(_position(preference, levels.get(name)))
            self._moved(preference, level, levels.get(name))

    def all_levels_of(self, name: str | None) -> None:
        """Take the slider of a preference out of use, as all its levels are asked for; None: of none."""
        for of, (slider, level) in self._sliders.items():
            slider.use(of != name)
            level.set_text("all levels" if of == name else at_level(self.session.schema[of], self.session.settings[self.setting].get(of)))

    def _slider(self, preference: Preference) -> None:
        at = self.session.settings[self.setting].get(preference.name)
        with ui.element("div").classes("stands"):
            _name(preference)
            level = ui.label(at_level(preference, at)).classes("at")
        levels: list[int | None] = [None, *preference.requestable]
        slider = Slider(
            f"{preference.name}, setting {self.setting}", [at_level(preference, n) for n in levels], _position(preference, at),
            lambda position: self._moved(preference, level, levels[position]),
        )  # fmt: skip
        with ui.element("div").classes("ticks").props("aria-hidden=true"):
            for n in levels:
                ui.label("open" if n is None else preference.label(n))
        self._sliders[preference.name] = slider, level

    def _moved(self, preference: Preference, level: ui.label, at: int | None) -> None:
        self.session.set(self.setting, preference.name, at)
        level.set_text(at_level(preference, at))


def _position(preference: Preference, level: int | None) -> int:
    return 0 if level is None else preference.requestable.index(level) + 1


def _name(preference: Preference) -> None:
    name = ui.label(preference.name).classes("name")
    if preference.description:
        name.tooltip(preference.description)


def _guard(preference: Preference) -> None:
    with ui.element("div").classes("stands"):
        _name(preference)
        ui.label(f"■ held at {at_level(preference, preference.k)}").classes("at guard").tooltip("A guard: no other level may be requested.")
