"""This command line as a person's shell finds it, for the commands that are printed to go on with."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def called() -> str:
    """This command as a shell finds it from here: an environment that is not activated is not on its path."""
    script = Path(sys.argv[0])
    if script.name != "moslim":
        return shlex.join([sys.executable, "-m", "flows.cli"])
    on_path = shutil.which("moslim")
    return "moslim" if on_path and Path(on_path).samefile(script) else shlex.quote(str(script))


def command(*words: str) -> str:
    """A command of this program that runs as it is."""
    return f"{called()} {shlex.join(words)}"


def with_settings(*words: str, profile: str, overrides: Sequence[str] = ()) -> str:
    """The same with the profile and the settings that were given; of several for one key the last."""
    overrides = list({override.partition("=")[0]: override for override in overrides}.values())
    return command(*words, "--profile", profile, *(part for override in overrides for part in ("--set", override)))
