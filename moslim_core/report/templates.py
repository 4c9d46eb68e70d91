"""The pages' templates: everything is escaped, a name that is missing is an error, numbers are worded alike."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from moslim_core.report import wording


def environment() -> Environment:
    """A new one, to which a page may add filters of its own."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(
        number=wording.number,
        percent=wording.percent,
        bounds=wording.bounds,
        with_bounds=wording.with_bounds,
        duration=wording.duration,
        listing=wording.listing,
        count_or_share=wording.count_or_share,
        obtained=wording.obtained,
        distance=wording.distance,
    )
    return made
