"""Documents say what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import yaml

from moslim_core.data.annotators import annotate
from moslim_core.preferences import RuleAnnotator

DOCS = Path(__file__).parents[1] / "docs"


def test_settings_page_is_made_from_the_settings() -> None:
    made = runpy.run_path(str(DOCS / "make_settings.py"))
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == made["page"](), "run python docs/make_settings.py"


def test_files_that_the_architecture_names_are_there() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./]+)`", text) if "/" in name and "NAME" not in name}
    assert len(named) > 15
    package = DOCS.parent / "moslim_core"
    assert [name for name in sorted(named) if not (DOCS.parent / name).exists() and not (package / name).exists()] == []


def test_constraints_as_preferences_are_told_by_the_rules_that_stand_beside_them() -> None:
    table = re.findall(r"^\| ([^|]+) \| `(\{[^`]+\})` \| (.+?) \| (.+?) \|$", (DOCS / "first_steps.md").read_text(encoding="utf-8"), re.M)
    assert len(table) >= 15
    for constraint, rule, *examples in table:
        annotator = RuleAnnotator.model_validate(yaml.safe_load(rule))
        assert [annotate(example.replace("¶", "\n"), annotator) for example in examples] == [1, 2], constraint
