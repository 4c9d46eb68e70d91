"""Plug-ins that can't be used: one that does not import, names that are taken or none, what no distribution has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from flows import profile
from moslim_core.errors import UserError
from moslim_core.registry import utility
from moslim_core.reward.settings import MappingSettings
from tasks.execution.stage import makers
from tests.odd import tiny_models as tiny
from tests.odd.case import Case
from tests.plugged import plugged, written

USE = "from moslim_core.registry import utility\n@utility('{name}')\ndef mine(p, target):\n    'mine'\n    return p[:, 0]\n"


def installed(text: str, act: Callable[[], object] = lambda: profile.load("demo")) -> Callable[[Path], object]:
    """`act` where a plug-in with this text is installed."""

    def acted(folder: Path) -> object:
        with plugged(written(folder / "site", {"odd_plugin.py": text}, "odd-plugin", "1.2", "odd_plugin")):
            return act()

    return acted


def help_says_so(folder: Path) -> None:
    from flows.cli.commands import app

    def act() -> None:
        found = CliRunner().invoke(app, ["run", "--help"])
        assert isinstance(found.exception, UserError) and "odd_plugin" in str(found.exception)

    installed("1 / 0", act)(folder)


def by_hand(folder: Path) -> None:
    try:
        utility("by-hand")(nobodys)
        assert MappingSettings(utility="by-hand").utility == "by-hand"
        makers({"mapping": {"utility": "by-hand"}})
    finally:
        utility._things.pop("by-hand")


def nobodys(p: object, target: object) -> object:
    """It is in no distribution."""
    return p


def works(folder: Path) -> None:
    def act() -> None:
        assert profile.load("demo", ["mapping.utility=quite-new_1"]).mapping.utility == "quite-new_1"
        assert utility.listed()["quite-new_1"] == "mine"

    installed(USE.format(name="quite-new_1"), act)(folder)


def head_that_is_not_here(folder: Path) -> None:
    from moslim_core.reward.scorer import RewardScorer

    shutil.copytree(tiny._reward(), folder / "reward")
    file = folder / "reward" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"heads": ["theirs"]}))
    RewardScorer.load(folder / "reward", "cpu")


CASES = [
    Case("reward model whose head is of a plug-in that is not here", head_that_is_not_here, "theirs: there is no such head"),
    Case("plug-in of one file, its name with a dash", works),
    Case("plug-in whose import fails", installed("import no_such_library"), "mine (odd-plugin 1.2) can't be imported: ModuleNotFoundError"),
    Case("plug-in that is no Python", installed("def"), "can't be imported: SyntaxError"),
    Case("plug-in whose error has many lines", installed("raise ValueError('a\\nb\\nc\\nd')"), "ValueError: a\nMend odd_plugin"),
    Case("plug-in that ends the process", installed("raise SystemExit(3)"), "can't be imported: SystemExit"),
    Case("plug-in that takes a name of the library", installed(USE.format(name="ordinal")), "'ordinal' in odd_plugin: the name is taken"),
    Case("plug-in that takes a word of a setting", installed(USE.replace("utility", "engine").format(name="auto")), "the name is taken"),
    Case("plug-in whose name --set can't take", installed(USE.format(name="Mine, too")), "lower-case letters"),
    Case("plug-in that can't be imported, and --help", help_says_so),
    Case("what a notebook registers, in a stage", by_hand, "no installed plug-in has it"),
]
