"""Damaged and odd inputs as people have them: each works, or is refused in three lines with nothing half-written.

The cases stand in the modules beside this one, a list `CASES` each; every row states what must come of it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from moslim_core.errors import UserError
from tests.odd.case import Case

MODULES = sorted(file.stem for file in Path(__file__).parent.glob("*_cases.py"))
CASES: list[Case] = [case for module in MODULES for case in importlib.import_module(f"tests.odd.{module}").CASES]
MOST_LINES = 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_odd_input_works_or_is_refused(case: Case, tmp_path: Path) -> None:
    if case.refused is None:
        case.act(tmp_path)
        return
    with pytest.raises(UserError) as refusal:
        case.act(tmp_path)
    message = str(refusal.value)
    assert case.refused in message
    assert len(message.splitlines()) <= MOST_LINES, message
    assert not (tmp_path / "output").exists(), "something was written before the input was refused"


def test_every_case_has_a_name_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    with capsys.disabled():
        print(f"\n{len(CASES)} odd inputs, {sum(case.refused is not None for case in CASES)} of them refused")
