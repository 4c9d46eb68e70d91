"""Generated schemas and targets."""

from __future__ import annotations

from hypothesis import strategies as st

from moslim_core.preferences import PreferenceSchema, Targets

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
LABELS = st.from_regex(r"[A-Za-z][A-Za-z0-9 '-]{0,12}", fullmatch=True)


@st.composite
def schemas(draw: st.DrawFn, least: int = 1, most: int = 5) -> PreferenceSchema:
    """Any schema: K differs per preference, some preferences have a floor, some are guards."""
    entries = []
    for name in draw(st.lists(NAMES, min_size=least, max_size=most, unique=True)):
        levels = draw(st.lists(LABELS, min_size=2, max_size=6))
        entries.append({"name": name, "levels": levels, "floor": draw(st.integers(1, len(levels)))})
    return PreferenceSchema.model_validate(entries)


@st.composite
def schema_and_targets(draw: st.DrawFn) -> tuple[PreferenceSchema, Targets]:
    """A schema and requestable targets for any subset of it, the empty one too."""
    schema = draw(schemas())
    names = draw(st.lists(st.sampled_from(schema.names), unique=True))
    return schema, schema.targets({n: draw(st.sampled_from(schema[n].requestable)) for n in names})
