"""What the package says of itself agrees, wherever it says it."""

from __future__ import annotations

import tomllib
from importlib.metadata import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_version_is_said_once() -> None:
    from flows.cli.commands import app

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["--version"]).output == f"moslim {PROJECT['version']}\n"


def test_python_versions_are_those_that_prefect_takes() -> None:
    ours, theirs = SpecifierSet(PROJECT["requires-python"]), SpecifierSet(metadata("prefect")["Requires-Python"])
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}.9" in ours] == named
    assert all(f"{version}.9" in theirs for version in named)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["ci"]["strategy"]["matrix"]["python"] == named


def test_every_dependency_has_a_pin_that_it_allows() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *extras["dev"], *extras["docs"], *extras["postgres"]]]
    # Stubs have no part in any result.
    wanted = [need for need in wanted if need.name != "moslim" and not need.name.startswith("types-")]
    loose = [str(need) for need in wanted if pins.get(canonicalize_name(need.name), "0") not in need.specifier]
    assert loose == []
