"""Rated answers and prompts, by source, checked row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core.data import starter
from moslim_core.data.binning import Binning
from moslim_core.data.catalogue import HUB_SETS, HubSet
from moslim_core.data.files import SplitFile, hub_files, own_files, place_of, prompt_files
from moslim_core.data.rows import Row, conversation, well_formed
from moslim_core.data.tables import read_table
from moslim_core.errors import UserError
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.settings import ColumnSettings, DataSettings, LabelColumn


class Rated(NamedTuple):
    """A rated answer as its source has it. `ratings`: those that only quantiles of the training split make levels."""

    stated: str | None  # the split that the source states
    row: Row
    ratings: dict[str, float]
    place: str  # what errors call it


class Source(NamedTuple):
    """A source whose files are on this machine, with a binning for each preference that it rates."""

    name: str
    files: list[SplitFile]
    columns: ColumnSettings
    binnings: dict[str, Binning]
    expand: Callable[[dict[str, Any]], Iterable[dict[str, Any]]]
    about: dict[str, str]  # licence, and where it is from

    @property
    def states(self) -> frozenset[str | None]:
        """The splits that its files state."""
        return frozenset(split for split, _ in self.files)

    def rows(self) -> Iterator[Rated]:
        """All its rated answers. Raises UserError on bad input, naming file, row and remedy."""
        for split, path in self.files:
            count = 0
            for number, record in read_table(path):
                count += 1
                place = f"{path}, row {number}"
                try:
                    values = list(self.expand(record))
                except (KeyError, TypeError, AttributeError) as error:
                    raise UserError(
                        f"{place}: no record of {self.name} ({type(error).__name__}: {error}).\n"
                        f"Give the files of {self.about.get('hub')}, or other files with data.source=jsonl."
                    ) from error
                for value in values:
                    yield self._checked(value, split, place)
            if count == 0:
                raise UserError(f"{path}: the file has no rows.\nGive a file with one rated answer a row.")

    def _checked(self, value: dict[str, Any], split: str | None, place: str) -> Rated:
        columns = self.columns
        for column in (columns.prompt, columns.response):
            _need(value, column, place)
        response = value[columns.response]
        if not isinstance(response, str):
            raise UserError(f"{place}: column {columns.response!r} holds {type(response).__name__}, text is needed.")
        labels, ratings = {}, {}
        for name, binning in self.binnings.items():
            _need(value, binning.column, place)
            rating = value[binning.column]
            if self.name == "csv":
                rating = _number(rating)
            if rating is None:
                continue
            if binning.quantiles:
                ratings[name] = binning.number(rating, place)
            elif (level := binning.level(rating, place)) is not None:
                labels[name] = level
        origin = value.get(columns.source) if columns.source else self.name
        row = Row(conversation(value[columns.prompt], place), well_formed(response), labels, str(origin or "data"))
        return Rated(split, row, ratings, place)


def open_sources(settings: DataSettings, schema: PreferenceSchema) -> list[Source]:
    """The sources that the settings name; the hub's are downloaded where `data.path` does not hold them.

    Raises UserError if files are missing, or if columns and binnings do not fit the schema.
    """
    known = {*schema.names, *(f"{source}.{name}" for source in settings.source for name in schema.names)}
    unknown = [name for name in settings.columns.labels if name not in known]
    if unknown:
        raise UserError(
            f"data.columns.labels names {', '.join(unknown)}, which is no preference of the schema.\n"
            f"The schema has: {', '.join(schema.names)}."
        )
    return [_open(name, settings, schema) for name in settings.source]


def _open(name: str, settings: DataSettings, schema: PreferenceSchema) -> Source:
    several = len(settings.source) > 1
    path = place_of(name, settings.path, several)
    given = {p.name: _given(name, p.name, settings.columns) for p in schema.preferences}
    if name in HUB_SETS:
        found = HUB_SETS[name]
        offered = {p.name: _offered(name, found, p.name, p.k, given[p.name]) for p in schema.preferences}
        files, revision = hub_files(name, found, path)
        about = {"licence": found.licence, "hub": found.hub, "revision": revision, "defects": found.defects}
        binnings = {preference: binning for preference, binning in offered.items() if binning}
        return Source(name, files, ColumnSettings(source=None), binnings, found.expand, about)
    binnings = {p.name: Binning.of(p.name, given[p.name].column or p.name, p.k, given[p.name]) for p in schema.preferences}
    files = [(None, starter.ROWS)] if name == "starter" else own_files(name, path, several)
    about = {"licence": "Apache-2.0" if name == "starter" else "not stated"}
    return Source(name, files, settings.columns, binnings, lambda record: (record,), about)


def _given(source: str, preference: str, columns: ColumnSettings) -> LabelColumn:
    return columns.labels.get(f"{source}.{preference}") or columns.labels.get(preference) or LabelColumn()


def _offered(source: str, found: HubSet, preference: str, k: int, given: LabelColumn) -> Binning | None:
    """What the settings say, else the data set's rating that has as many values as the preference has levels; None if it has none."""
    wanted = given.column
    offered = [r for r in found.ratings if (r.column == wanted if wanted else r.preference == preference)]
    if wanted and not offered:
        raise UserError(
            f"data.columns.labels.{preference}.column={wanted}: {source} has no such rating.\n"
            f"It has: {', '.join(dict.fromkeys(r.column for r in found.ratings))}."
        )
    if not offered:
        return None
    if given.ways:
        return Binning.of(preference, offered[0].column, k, given)
    fitting = next((r for r in offered if len(r.scale) == k), None)
    if fitting is None:
        scales = " or ".join(f"{r.column} by {len(r.scale)} values ({r.scale[0]} to {r.scale[-1]})" for r in offered)
        raise UserError(
            f"{source} rates {scales}, but {preference} has {k} levels.\n"
            f"Give it as many, or thresholds, quantiles or levels under data.columns.labels.{preference}."
        )
    return Binning(preference, fitting.column, k, levels={str(value): level for level, value in enumerate(fitting.scale, start=1)})


def prompts(path: Path) -> Iterator[tuple[str | None, list[Message], str]]:
    """(split that the row states, or None, prompt, place to name in errors) of a file or folder with a `prompt` column."""
    for file in prompt_files(path):
        count = 0
        for number, value in read_table(file):
            count += 1
            place = f"{file}, row {number}"
            _need(value, "prompt", place)
            yield value.get("split") or None, conversation(value["prompt"], place), place
        if count == 0:
            raise UserError(f"{file}: the file has no rows.\nGive a file with one prompt a row.")


def _need(value: dict[str, Any], column: str, place: str) -> None:
    if column not in value:
        raise UserError(
            f"{place}: column {column!r} is missing (there are: {', '.join(map(str, value)) or 'none'}).\n"
            "Name the column under data.columns in the profile, or rename it."
        )


def _number(text: str) -> Any:
    """A CSV cell as a rating: null where it is empty, a number where it is one."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text
