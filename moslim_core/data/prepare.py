"""The label stage's work: rated rows -> splits by prompt group, prompts for the policy and for evaluation, a data card.

Rows are never all in memory: the first pass spools the checked ones to disk, later passes read them from there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from moslim_core.data import sources
from moslim_core.data.annotation import Annotation
from moslim_core.data.bad_rows import BadRows, OnBad
from moslim_core.data.binning import Binning
from moslim_core.data.card import Tally, write_card
from moslim_core.data.prompts import Candidate, write_prompts
from moslim_core.data.rows import Row
from moslim_core.data.rows_on_disk import Spool, Spooled
from moslim_core.data.sources import Source
from moslim_core.data.splits import JUDGE, TEST, TRAIN, VALIDATION, Splits
from moslim_core.errors import UserError
from moslim_core.preferences import PreferenceSchema
from moslim_core.settings import Settings
from moslim_core.training.progress import Progress

PROGRESS_ROWS = 1000
NO_LABEL = "no label"


class Seen(NamedTuple):
    """The rows of a run as they were read, before they are validated."""

    tally: Tally
    splits: Splits
    dropped: Counter[str]
    bad: BadRows


def prepare(
    settings: Settings, output: Path, cache: Path, progress: Progress, see: Callable[[Seen], None] = lambda seen: None
) -> dict[str, Any]:
    """Make the folder `output` with {train,validation,test[,judge]}.jsonl, prompts.{train,evaluation}.jsonl and
    data_card.{json,md,html}. Returns the data card.

    `judge` is half of the training prompts, set apart for an independent judge where a reward model judges. `see` is shown what there is
    before it is refused. Raises UserError on bad input; `output` is there whole or not at all.
    """
    opened = sources.open_sources(settings.data, settings.preferences)
    dropped: Counter[str] = Counter()
    with _whole(output) as folder:
        bad = BadRows(settings.data.bad_rows)
        rated = usable(opened, dropped, bool(settings.annotation.fill), bad, progress)
        spool = Spool(folder / "spool", rated, settings.preferences.names)
        if not len(spool) and bad.first:
            raise bad.first
        dropped |= spool.draw(settings.data.limit)
        splits = Splits(settings.data, judge="reward_model" in settings.evaluation.judges)
        _split(splits, spool, opened, settings.policy.prompts, bad, progress)
        dropped.update({f"bad row: {reason}": count for reason, count in bad.counts.items()})
        opened = _measured(spool, opened, splits)
        annotation = Annotation.of(
            settings.annotation, settings.preferences, settings.model.device, settings.work_dir / "cache" / "answers.sqlite"
        )
        remaining = _kept_rows(spool, splits, opened, dropped, progress)
        tally = _write_rows(folder, _labelled(remaining, annotation, dropped), settings.preferences)
        see(Seen(tally, splits, dropped, bad))
        _check_labels(tally, settings.preferences, splits, settings.data.where)
        chosen = write_prompts(folder, _Rated(spool, splits), settings, splits, cache, dropped)
        spool.path.unlink()
        record = annotation.record()
        if record.usage is not None:
            progress.metrics({f"judge/{name}": value for name, value in record.usage.model_dump().items()}, step=0)
        card = tally.card(
            prompts=chosen,
            prompt_groups={"similarity": settings.data.near_duplicates, **splits.summary()},
            licences={source.name: source.about for source in opened},
            binning={
                name: {s.name: s.binnings[name].recorded() for s in opened if name in s.binnings} for name in settings.preferences.names
            },
            dropped=dropped,
            bad_rows=bad.record(),
            # Without what it cost: a resumed run pays less for the same rows.
            **record.model_dump(exclude={"usage"}),
        )
        write_card(folder, card, settings.preferences)
    return card


@contextlib.contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place when all is well, and is removed when it is not."""
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def usable(opened: list[Source], dropped: Counter[str], fill: bool, bad: OnBad, progress: Progress) -> Iterator[Spooled]:
    """The rows with an answer and, unless annotators are to `fill` labels in, at least one label or another answer that is worse."""
    count = 0
    for number, source in enumerate(opened):
        for rated in source.rows(bad, fill):
            count += 1
            if count % PROGRESS_ROWS == 0:
                progress.update("reading rated answers", count, count)
            row, others = rated.row, (rated.row.worse or {}).values()
            if not all(answer.strip() for answer in (row.response, *others)):
                dropped["empty answer"] += 1
            elif row.response in others:
                dropped["choice between equal answers"] += 1
            elif not row.labels and not rated.ratings and not others and not fill:
                dropped[NO_LABEL] += 1
            else:
                yield Spooled(number, rated)
    progress.update("reading rated answers", count, count)


def _split(splits: Splits, spool: Spool, opened: list[Source], prompts: Path | None, bad: OnBad, progress: Progress) -> None:
    """Puts all prompts, those of a file of their own too, in a split each."""
    for done, (source, rated) in enumerate(spool, start=1):
        splits.add_rated(
            rated.row.prompt, rated.stated, opened[source].states, {*rated.row.labels, *rated.ratings, *(rated.row.worse or ())}
        )
        if done % PROGRESS_ROWS == 0:
            progress.update("grouping prompts", done, len(spool))
    if prompts is not None:
        for _, prompt in sources.prompts(prompts, bad):
            splits.add(prompt)
    splits.decide()


class _Rated:
    """(split, prompt) of the rated rows that no split drops, any number of times."""

    def __init__(self, spool: Spool, splits: Splits) -> None:
        self.spool, self.splits = spool, splits

    def __iter__(self) -> Iterator[tuple[str, Candidate]]:
        for _, rated in self.spool:
            number = self.splits.prompts.number(rated.row.prompt)
            if not self.splits.crossing(number, rated.stated):
                yield self.splits.of(number), Candidate(rated.row.prompt, number)


def _measured(spool: Spool, opened: list[Source], splits: Splits) -> list[Source]:
    """The sources with what thresholds need of the training rows of each source, as scales differ: quantiles, mean ratings.

    The rows set apart for an independent judge are training rows too.
    """
    ratings = [{name: array("d") for name, binning in source.binnings.items() if binning.cuts} for source in opened]
    if not any(ratings):
        return opened
    for source, rated in spool:
        if splits.of(splits.prompts.number(rated.row.prompt)) in (TRAIN, JUDGE):
            for name, rating in rated.ratings.items():
                ratings[source][name].append(rating)
    return [
        source._replace(binnings={**source.binnings, **{name: _cutting(source, name, values) for name, values in of_source.items()}})
        for source, of_source in zip(opened, ratings, strict=True)
    ]


def _cutting(source: Source, preference: str, ratings: array[float]) -> Binning:
    binning = source.binnings[preference]
    measured = binning.measured(np.frombuffer(ratings))
    if measured is None:
        raise UserError(
            f"data.columns.labels.{preference}.quantiles: the training ratings of {source.name} have fewer than {binning.k} values.\n"
            f"Give thresholds or levels, or give {preference} fewer levels."
        )
    return measured


def _kept_rows(spool: Spool, splits: Splits, opened: list[Source], dropped: Counter[str], progress: Progress) -> Iterator[tuple[str, Row]]:
    """(split, row with all its levels) of the rows that stay in."""
    for done, (source, rated) in enumerate(spool, start=1):
        if done % PROGRESS_ROWS == 0:
            progress.update("writing splits", done, len(spool))
        number = splits.prompts.number(rated.row.prompt)
        if reason := splits.crossing(number, rated.stated):
            dropped[reason] += 1
            continue
        cut = {name: opened[source].binnings[name].cut(rating) for name, rating in rated.ratings.items()}
        yield splits.of(number), rated.row.with_levels({**rated.row.levels(), **cut}) if cut else rated.row


def _labelled(remaining: Iterator[tuple[str, Row]], annotation: Annotation, dropped: Counter[str]) -> Iterator[tuple[str, Row]]:
    """The same rows with missing labels filled in; those that nobody could label are dropped."""
    splits, rows = itertools.tee(remaining)
    # Strict: only at its end does an annotation compare those who said levels.
    for (split, _), row in zip(splits, annotation.fill(row for _, row in rows), strict=True):
        if row.labels or row.worse:
            yield split, row
        else:
            dropped[NO_LABEL] += 1


def _write_rows(folder: Path, rows: Iterable[tuple[str, Row]], schema: PreferenceSchema) -> Tally:
    tally = Tally(schema)
    with contextlib.ExitStack() as stack:
        files: dict[str, TextIO] = {}
        for split, row in rows:
            if split not in files:
                files[split] = stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8"))
            files[split].write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")
            tally.add(split, row)
    return tally


def _check_labels(tally: Tally, schema: PreferenceSchema, splits: Splits, where: str) -> None:
    for split in [TRAIN, VALIDATION, TEST] + [JUDGE] * splits.judge:
        for preference in schema.preferences:
            name = preference.name
            # Where a preference has two levels, which of two answers is better is all there is to know.
            if not tally.labelled(name, split) and not (preference.k == 2 and tally.choices[name, split]):
                what = f"no labelled row in the {split} split" if tally.labelled(name) else "every label is null"
                fell = ", ".join(f"{number} in {of}" for of, number in splits.sizes(name).items()) or "none"
                remedy = (
                    f"Prompts that it is rated for: {fell}. Give {name} levels for more prompts (more rows if data.limit is set), "
                    f"or leave {name} out of the preferences."
                )
                if any(of == name for of, _ in tally.choices):
                    remedy = f"Choices say which answer is better, not how good. {remedy}"
                raise UserError(f"{where}: {what} for preference {name!r}.\n{remedy}")
