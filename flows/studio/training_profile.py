"""A profile for the next training: the settings of a policy's run, with the ratings of its answers beside the rows that trained it.

`data.path` of several sources is a folder with an entry named like each. The policy's own rows are links in it, the ratings a file. Its
columns need no names of the own rows: `data.columns.labels` takes a source's name before the preference's, and a conversation holds
prompt and answer in one column.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from pydantic import ValidationError

from flows.studio.ratings import SOURCE, Ratings
from moslim_core.data.files import place_of
from moslim_core.data.row_formats import CONVERSATIONS
from moslim_core.data.settings import ColumnSettings, DataSettings, LabelColumn
from moslim_core.data.tables import FORMATS
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.ledger.references import digest_of

FOLDER, PROFILE = "training", "profile.yaml"
# A source is a format, and may be named once: the ratings take the first that the policy's own rows leave free.
FORMS = ("jsonl", "csv")


def write(trained_by: Mapping[str, Any], ratings: Ratings, work_dir: Path) -> Path | None:
    """The profile's file, written anew with all ratings there are; None where `trained_by`, of the policy's run, are no settings.

    Raises UserError where the ratings can't stand beside the policy's own rows, or the folder can't be written.
    """
    recorded = settings_of(trained_by, ratings.schema)
    if recorded is None:
        return None
    home = work_dir.absolute() / "studio" / FOLDER
    folder = home / digest_of(dict(trained_by))[:16]
    own = _own_sources(recorded.data, home)
    form = next((form for form in FORMS if form not in own), None)
    if form is None:
        raise UserError(
            f"the policy's own rows are in {' and '.join(FORMS)} files, and a rating needs one of these forms to itself.\n"
            f"Add the rows of {ratings.file} to one of them."
        )
    columns = recorded.data.columns
    labels = {f"{form}.{name}": LabelColumn(column=name) for name in ratings.schema.names}
    # All that is in this folder counts as data.
    rows = folder / "rows"
    data = changed(recorded.data, source=(*own, form), path=rows, columns=changed(columns, labels={**columns.labels, **labels}))
    settings = changed(recorded, data=data, work_dir=work_dir.absolute())
    try:
        rows.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / "lock")):
            _link(own, recorded.data, rows)
            _put(rows / f"{form}.{form}", folder / "rows.partial", _table(ratings, form, columns))
            _put(folder / PROFILE, folder / "profile.partial", _text(settings))
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror or error}).\nMake room, or give the folder back.") from error
    return folder / PROFILE


def settings_of(recorded: Mapping[str, Any], schema: PreferenceSchema) -> Settings | None:
    """The settings that a run has on record, with the preferences of its policy; None where they are none, as those of a run by another
    version may be."""
    try:
        return Settings.model_validate({**recorded, "preferences": schema.model_dump(mode="json")}) if recorded else None
    except (ValidationError, UserError):
        return None


def _own_sources(data: DataSettings, home: Path) -> tuple[str, ...]:
    """The sources without the ratings, which are the last one where such a profile trained the policy: they are all in the new file."""
    return data.source[:-1] if data.path is not None and data.path.is_relative_to(home) else data.source


def _link(own: Sequence[str], data: DataSettings, rows: Path) -> None:
    """Make the entry of each source that has files of its own; the packaged set and what the hub has need none."""
    for source in own:
        place = place_of(source, data.path, several=len(data.source) > 1)
        if place is None:
            continue
        place = place.resolve()
        if not place.exists():
            raise UserError(f"the policy's own rows, {place}, are not there any more.\nPut them back to learn from them and the ratings.")
        # A file's name says whether it is packed.
        suffix = next((suffix for suffix in FORMATS.get(source, ()) if place.name.lower().endswith(suffix)), "")
        link = rows / f"{source}{suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(place)


def _table(ratings: Ratings, form: str, columns: ColumnSettings) -> str:
    """The rated rows, each a conversation that ends with the answer, in columns that the settings of the own rows read, too."""
    told = columns.messages or CONVERSATIONS[0]
    rows = []
    for row in ratings.rows():
        prompt = row.get("prompt")
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
        messages = [*before, {"role": "assistant", "content": row.get("response")}]
        levels = {name: row.get(name) for name in ratings.schema.names}
        rows.append({told: messages, **({columns.source: SOURCE} if columns.source else {}), **levels})
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows({**row, told: json.dumps(row[told], ensure_ascii=False)} for row in rows)
    return text.getvalue()


def _text(settings: Settings) -> str:
    about = "# Written by moslim studio: the settings that trained a policy, with the ratings of its answers as one more source of rows.\n"
    values = settings.model_dump(mode="json", exclude_defaults=True)
    return about + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _put(file: Path, beside: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside.write_text(text, encoding="utf-8", newline="")
    os.replace(beside, file)
