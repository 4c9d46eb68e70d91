"""Rated answers and prompts, by source, checked row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moslim_core import registry
from moslim_core.data import starter
from moslim_core.data.bad_rows import BadRow, OnBad, shown, stop
from moslim_core.data.binning import Binning
from moslim_core.data.catalogue import HubSet
from moslim_core.data.files import SPLITS, SplitFile, hub_files, own_files, place_of, prompt_files
from moslim_core.data.row_formats import need, prompt_of, shape_of, with_members
from moslim_core.data.rows import UNREADABLE, Row, open_text, unreadable
from moslim_core.data.settings import ColumnSettings, DataSettings, LabelColumn
from moslim_core.data.tables import FORMATS, read_table
from moslim_core.errors import UserError
from moslim_core.preferences import Message, PreferenceSchema


class Rated(NamedTuple):
    """A rated answer as its source has it. `ratings`: those that thresholds make levels, once the training split is known."""

    stated: str | None  # the split that the source states
    row: Row
    ratings: dict[str, float]


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

    def rows(self, bad: OnBad = stop, fill: bool = False) -> Iterator[Rated]:
        """All its rated answers; `bad` is told of rows that can't be used. Raises UserError, naming file, row and remedy.

        With `fill` annotators say levels: the two answers of a choice are rows of their own too, and ratings need no column.
        """
        for split, path in self.files:
            count = 0

            def count_bad(error: BadRow) -> None:
                nonlocal count
                count += 1
                bad(error)

            for number, record in read_table(path, count_bad, self.name if self.name in FORMATS else None):
                count += 1
                place = f"{path}, row {number}"
                try:
                    # All of a record or nothing of it.
                    rated = [one for value in self._expanded(record, place) for one in self._checked(value, split, place, fill)]
                except BadRow as error:
                    bad(error)
                else:
                    yield from rated
            if count == 0:
                raise UserError(f"{path}: the file has no rows.\nGive a file with one rated answer a row.")

    def _expanded(self, record: dict[str, Any], place: str) -> list[dict[str, Any]]:
        try:
            return list(self.expand(record))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadRow(
                place,
                f"no record of {self.name}",
                f"no record of {self.name} ({type(error).__name__}: {shown(str(error))})",
                f"Give the files of {self.about.get('hub')}, or other files with data.source=jsonl.",
            ) from error

    def _checked(self, value: dict[str, Any], split: str | None, place: str, fill: bool) -> Iterator[Rated]:
        shape = shape_of(value, self.columns, place)
        bare = Row(shape.prompt, shape.response, {}, self._origin(value, place))
        if shape.rejected is not None:
            yield Rated(split, bare._replace(worse={self._chosen_by(place): shape.rejected}), {})
            if fill:
                yield from (Rated(split, bare._replace(response=answer), {}) for answer in (shape.response, shape.rejected))
            return
        levels, ratings = {}, {}
        for name, binning in self.binnings.items():
            if fill and binning.column == name and name not in value:
                # Nobody named the column: annotators say this level of all rows.
                continue
            need(value, binning.column, place)
            if binning.cuts:
                if (rating := binning.rating(value[binning.column], place)) is not None:
                    ratings[name] = rating
            elif (level := binning.level(value[binning.column], place)) is not None:
                levels[name] = level
        yield Rated(split, bare.with_levels(levels), ratings)

    def _origin(self, value: dict[str, Any], place: str) -> str:
        """What the row says of its source, else the source's own name."""
        origin = value.get(self.columns.source) if self.columns.source else self.name
        if isinstance(origin, list | dict):
            problem = f"column {self.columns.source!r} is no text"
            raise BadRow(place, problem, problem, "Name the row's source in words, or set data.columns.source=null.")
        return str(origin or "data")

    def _chosen_by(self, place: str) -> str:
        """The preference that a choice between two answers is about. Raises UserError if the settings do not say."""
        if self.columns.pairs is None:
            raise UserError(
                f"{place}: chosen and rejected, but no preference that the choice is about.\n"
                f"Name it, e.g. --set data.columns.pairs={next(iter(self.binnings))}, or give rows with prompt and response."
            )
        return self.columns.pairs


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
    if settings.columns.pairs is not None and settings.columns.pairs not in schema.names:
        raise UserError(
            f"data.columns.pairs={settings.columns.pairs}, which is no preference of the schema.\n"
            f"The schema has: {', '.join(schema.names)}."
        )
    return [_open(name, settings, schema) for name in settings.source]


def _open(name: str, settings: DataSettings, schema: PreferenceSchema) -> Source:
    several = len(settings.source) > 1
    path = place_of(name, settings.path, several)
    given = {p.name: _given(name, p.name, settings.columns) for p in schema.preferences}
    source_type = registry.source[name]
    if issubclass(source_type, HubSet):
        offered = {p.name: _offered(name, source_type, p.name, p.k, given[p.name]) for p in schema.preferences}
        files, revision = hub_files(name, source_type, path)
        about = {"licence": source_type.licence, "hub": source_type.hub, "revision": revision, "defects": source_type.defects}
        binnings = {preference: binning for preference, binning in offered.items() if binning}
        about_choices = source_type.pairs if source_type.pairs in schema.names else settings.columns.pairs
        if source_type.pairs and about_choices is None:
            raise UserError(
                f"data.source={name} has choices about {source_type.pairs}, which is no preference of the schema.\n"
                f"Name the one that they are about: --set data.columns.pairs={schema.names[0]}."
            )
        columns = ColumnSettings(source=None, pairs=about_choices)
        return Source(name, files, columns, binnings, source_type.expand, about)
    binnings = {p.name: Binning.of(p.name, given[p.name].column or p.name, p.k, given[p.name]) for p in schema.preferences}
    files = [(None, starter.ROWS)] if name == "starter" else own_files(name, path, several)
    return Source(name, files, settings.columns, binnings, lambda record: (with_members(record),), {"licence": source_type.licence})


def _given(source: str, preference: str, columns: ColumnSettings) -> LabelColumn:
    return columns.labels.get(f"{source}.{preference}") or columns.labels.get(preference) or LabelColumn()


def _offered(source: str, hub_set: type[HubSet], preference: str, k: int, given: LabelColumn) -> Binning | None:
    """What the settings say, else the data set's rating that has as many values as the preference has levels; None if it has none."""
    wanted = given.column
    offered = [r for r in hub_set.ratings if (r.column == wanted if wanted else r.preference == preference)]
    if wanted and not offered:
        raise UserError(
            f"data.columns.labels.{preference}.column={wanted}: {source} has no such rating.\n"
            f"It has: {', '.join(dict.fromkeys(r.column for r in hub_set.ratings))}."
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


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, prompt) of the lines of a text."""
    number = 0
    try:
        with open_text(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, {"prompt": line.strip()}
    except UNREADABLE as error:
        raise unreadable(file, number, error) from error


def _stated(split: Any, place: str) -> str | None:
    """The split that a row of prompts states, None where it states none."""
    if split in (None, ""):
        return None
    for name, written in SPLITS.items():
        if split in written:
            return name
    raise BadRow(place, "an unknown split", f"split={str(split)[:40]!r} is none", f"Write {', '.join(SPLITS)}, or leave it out.")


def prompts(path: Path, bad: OnBad = stop) -> Iterator[tuple[str | None, list[Message]]]:
    """(split that the row states, or None, prompt) of a file or folder of prompts or conversations.

    `bad` is told of rows without a prompt. Raises UserError.
    """
    columns = ColumnSettings()
    for file in prompt_files(path):
        count = 0

        def count_bad(error: BadRow) -> None:
            nonlocal count
            count += 1
            bad(error)

        for number, value in _lines(file) if file.suffix.lower() == ".txt" else read_table(file, count_bad):
            count += 1
            place = f"{file}, row {number}"
            try:
                prompt, split = prompt_of(value, columns, place), _stated(value.get("split"), place)
            except BadRow as error:
                bad(error)
            else:
                yield split, prompt
        if count == 0:
            raise UserError(f"{file}: the file has no rows.\nGive a file with one prompt a row.")
