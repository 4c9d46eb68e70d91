"""Plug-ins that can't be used: one that does not import, names that are taken or none, what no distribution has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from flows import profile
from moslim_core.registry import Registry, utility
from moslim_core.settings import MappingSettings
from tasks.stage import makers
from tests.odd.case import Case
from tests.plugged import plugged, written

USE = "from moslim_core.registry import utility\n@utility('{name}')\ndef mine(p, target):\n    'mine'\n    return p[:, 0]\n"


def installed(text: str, act: Callable[[], object] = lambda: profile.load("demo")) -> Callable[[Path], object]:
    """`act` where a plug-in with this text is installed."""

    def acted(folder: Path) -> object:
        with plugged(written(folder / "site", {"odd_plugin.py": text}, "odd-plugin", "1.2", "odd_plugin")):
            return act()

    return acted


def help_ends_with_code_2(folder: Path) -> None:
    from flows.cli import app

    def act() -> None:
        found = CliRunner().invoke(app, ["run", "--help"])
        assert "odd_plugin" in str(found.exception)

    installed("1 / 0", act)(folder)


def by_hand(folder: Path) -> None:
    own = Registry("utility", "reward.mapping")
    try:
        utility("by-hand")(len_of)
        assert MappingSettings(utility="by-hand").utility == "by-hand" and own
        makers({"mapping": {"utility": "by-hand"}})
    finally:
        utility._things.pop("by-hand")


def len_of(p: object, target: object) -> object:
    """Nobody's."""
    return p


def works(folder: Path) -> None:
    def act() -> None:
        assert profile.load("demo", ["mapping.utility=quite-new_1"]).mapping.utility == "quite-new_1"
        assert utility.listed()["quite-new_1"] == "mine"

    installed(USE.format(name="quite-new_1"), act)(folder)


CASES = [
    Case("plug-in of one file, its name with a dash", works),
    Case("plug-in whose import fails", installed("import no_such_library"), "mine (odd-plugin 1.2) can't be imported: ModuleNotFoundError"),
    Case("plug-in that is no Python", installed("def"), "can't be imported: SyntaxError"),
    Case("plug-in whose error has many lines", installed("raise ValueError('a\\nb\\nc\\nd')"), "ValueError: a\nMend odd_plugin"),
    Case("plug-in that ends the process", installed("raise SystemExit(3)"), "can't be imported: SystemExit"),
    Case("plug-in that takes a name of the library", installed(USE.format(name="ordinal")), "'ordinal' in odd_plugin: the name is taken"),
    Case("plug-in that takes a word of a setting", installed(USE.replace("utility", "engine").format(name="auto")), "the name is taken"),
    Case("plug-in whose name --set can't take", installed(USE.format(name="Mine, too")), "lower-case letters"),
    Case("plug-in that can't be imported, and --help", help_ends_with_code_2),
    Case("what a notebook registers, in a stage", by_hand, "no installed plug-in has it"),
]
