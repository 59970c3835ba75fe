"""Runs: their rows, attempts, metrics and samples. How they are started and watched is `workbench.runs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, String, cast, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from workbench.errors import NotFound
from workbench.records import Attempt, Failure, Metric, Progress, Run, RunState, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.datasets import check_name, clean_tags

_HIDDEN = ("queued_at", "claimed_at")


def _run(row: Any) -> Run:
    values = row_dict(row)
    for key in _HIDDEN:
        values.pop(key, None)
    return Run(**values)


def add_run(
    store: Store,
    *,
    kind: str,
    name: str,
    slot: str,
    spec: dict[str, Any],
    tags: Sequence[str] = (),
    notes: str = "",
    run_id: str | None = None,
) -> Run:
    """Enter a queued run."""
    now = utc_now()
    run = Run(
        id=run_id or new_id("run"),
        kind=kind,
        name=check_name(name, "run"),
        state=RunState.QUEUED,
        slot=slot,
        spec=spec,
        tags=tuple(clean_tags(tags)),
        notes=notes,
        created_at=now,
    )
    values = run.model_dump(exclude={"progress"}) | {"progress": {}, "queued_at": now, "state": run.state.value}
    with store.write() as connection:
        connection.execute(insert(tables.runs).values(values))
    return run


def get_run(store: Store, run_id: str) -> Run:
    """The run of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        row = connection.execute(select(tables.runs).where(tables.runs.c.id == run_id)).first()
    if row is None:
        raise NotFound("no such run", value=run_id, remedy="`workbench runs list` shows what there is.")
    return _run(row)


def list_runs(
    store: Store,
    *,
    kinds: Sequence[str] | None = None,
    states: Sequence[RunState] | None = None,
    archived: bool = False,
    search: str = "",
    limit: int = 200,
    offset: int = 0,
) -> list[Run]:
    """Runs, newest first; `search` is a text that the name, the tags or the notes contain, in either case."""
    table = tables.runs
    query = select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit).offset(offset)
    with store.read() as connection:
        return [_run(row) for row in connection.execute(_filtered(query, kinds, states, archived, search))]


def count_matching_runs(
    store: Store,
    *,
    kinds: Sequence[str] | None = None,
    states: Sequence[RunState] | None = None,
    archived: bool = False,
    search: str = "",
) -> int:
    """How many runs `list_runs` would give with these filters and no limit."""
    query = _filtered(select(func.count()).select_from(tables.runs), kinds, states, archived, search)
    with store.read() as connection:
        return int(connection.execute(query).scalar_one())


def _filtered(
    query: Select[Any], kinds: Sequence[str] | None, states: Sequence[RunState] | None, archived: bool, search: str
) -> Select[Any]:
    table = tables.runs
    if kinds is not None:
        query = query.where(table.c.kind.in_(kinds))
    if states is not None:
        query = query.where(table.c.state.in_([str(state) for state in states]))  # a notebook may give plain texts
    if not archived:
        query = query.where(table.c.archived_at.is_(None))
    if search.strip():
        columns = (table.c.name, table.c.notes, cast(table.c.tags, String))
        query = query.where(or_(*(column.icontains(search.strip(), autoescape=True) for column in columns)))
    return query


def count_runs(store: Store) -> dict[RunState, int]:
    """How many unarchived runs are in each state."""
    table = tables.runs
    query = select(table.c.state, func.count()).where(table.c.archived_at.is_(None)).group_by(table.c.state)
    with store.read() as connection:
        return {RunState(state): count for state, count in connection.execute(query)}


def update_run(store: Store, run_id: str, *, only_in: Sequence[RunState] | None = None, **changes: Any) -> bool:
    """Change columns of a run in one conditional update.

    Args:
        store: the store.
        run_id: the run.
        only_in: do nothing unless the run is in one of these states.
        changes: column values; records are stored as JSON.

    Returns:
        Whether the run was changed.
    """
    for key, value in changes.items():
        if isinstance(value, Progress | Failure):
            changes[key] = value.model_dump(mode="json")
        elif isinstance(value, RunState):
            changes[key] = value.value
        elif isinstance(value, tuple):
            changes[key] = list(value)
    query = update(tables.runs).where(tables.runs.c.id == run_id)
    if only_in is not None:
        query = query.where(tables.runs.c.state.in_([state.value for state in only_in]))
    with store.write() as connection:
        return bool(connection.execute(query.values(**changes)).rowcount)


def tag_run(store: Store, run_id: str, tags: Sequence[str]) -> None:
    """Give a run other tags."""
    update_run(store, run_id, tags=clean_tags(tags))


def rename_run(store: Store, run_id: str, name: str) -> None:
    """Give a run another name."""
    update_run(store, run_id, name=check_name(name, "run"))


def claim_next(store: Store, slot: str, limit: int) -> Run | None:
    """Claim the longest-waiting queued run of a slot class, unless `limit` of them are already at work.

    One transaction: two dispatchers never claim the same run nor overfill the slot.
    """
    table = tables.runs
    with store.write() as connection:
        busy = connection.execute(
            select(func.count()).where(table.c.slot == slot, table.c.state.in_(["starting", "running"]))
        ).scalar_one()
        if busy >= limit:
            return None
        run_id = connection.execute(
            select(table.c.id)
            .where(table.c.slot == slot, table.c.state == "queued")
            .order_by(table.c.queued_at, table.c.id)
            .limit(1)
        ).scalar()
        if run_id is None:
            return None
        connection.execute(
            update(table)
            .where(table.c.id == run_id, table.c.state == "queued")
            .values(
                state="starting",
                claimed_at=utc_now(),
                attempt=table.c.attempt + 1,
                ended_at=None,
                failure=None,
                progress={},  # the attempt before said how far that one was
            )
        )
        return _run(connection.execute(select(table).where(table.c.id == run_id)).first())


def claimed_at(store: Store, run_id: str) -> datetime | None:
    """When the run was last claimed for a start."""
    with store.read() as connection:
        return connection.execute(select(tables.runs.c.claimed_at).where(tables.runs.c.id == run_id)).scalar()


def put_attempt(store: Store, attempt: Attempt) -> None:
    """Enter an attempt."""
    with store.write() as connection:
        connection.execute(insert(tables.attempts).values(attempt.model_dump()))


def update_attempt(store: Store, run_id: str, number: int, **changes: Any) -> None:
    """Change columns of an attempt."""
    table = tables.attempts
    with store.write() as connection:
        connection.execute(update(table).where(table.c.run_id == run_id, table.c.number == number).values(**changes))


def list_attempts(store: Store, run_id: str) -> list[Attempt]:
    """Attempts of a run, oldest first."""
    table = tables.attempts
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.number)
    with store.read() as connection:
        return [Attempt(**row._mapping) for row in connection.execute(query)]


def add_metrics(store: Store, run_id: str, points: Iterable[Metric]) -> None:
    """Append metric points; a point that is already there is left as it is, so that a spool can be replayed."""
    values = [{"run_id": run_id, **point.model_dump()} for point in points]
    if not values:
        return
    dialect = sqlite if store.is_sqlite else postgresql
    with store.write() as connection:
        connection.execute(dialect.insert(tables.metrics).on_conflict_do_nothing(), values)


def list_metrics(
    store: Store, run_id: str, names: Sequence[str] | None = None, *, most: int | None = None
) -> list[Metric]:
    """Points of a run, in order of step. Where a later attempt repeated a step, only its point is given.

    Args:
        store: the store.
        run_id: the run.
        names: series wanted; all when None.
        most: about how many points of each series are enough, for a chart; evenly spaced steps and the last one are
            given. None gives every point.
    """
    table = tables.metrics
    query = (
        select(table.c.attempt, table.c.step, table.c.name, table.c.value, table.c.at)
        .where(table.c.run_id == run_id)
        .order_by(table.c.name, table.c.step, table.c.attempt)
    )
    if names is not None:
        query = query.where(table.c.name.in_(names))
    with store.read() as connection:
        if most is None:
            rows = list(connection.execute(query))
        else:
            rows = [
                row
                for name, count, last in _series_sizes(connection, run_id, names)
                for row in connection.execute(_thinned(query.where(table.c.name == name), count, last, most))
            ]
    latest = {(row.name, row.step): row for row in rows}
    return [Metric(**row._mapping) for row in latest.values()]


def _series_sizes(connection: Connection, run_id: str, names: Sequence[str] | None) -> list[tuple[str, int, int]]:
    """Name, number of points and last step of each series."""
    table = tables.metrics
    query = (
        select(table.c.name, func.count(), func.max(table.c.step))
        .where(table.c.run_id == run_id)
        .group_by(table.c.name)
        .order_by(table.c.name)
    )
    if names is not None:
        query = query.where(table.c.name.in_(names))
    return [(name, count, last) for name, count, last in connection.execute(query)]


def _thinned(query: Select[Any], count: int, last: int, most: int) -> Select[Any]:
    stride = -(-count // most)
    step = tables.metrics.c.step
    return query if stride <= 1 else query.where((step % stride == 0) | (step == last))


def add_sample(store: Store, run_id: str, *, attempt: int, step: int, slot: int, prompt: str, text: str) -> None:
    """Keep a sample answer drawn while the model learns."""
    dialect = sqlite if store.is_sqlite else postgresql
    with store.write() as connection:
        connection.execute(
            dialect.insert(tables.samples).on_conflict_do_nothing(),
            [
                {
                    "run_id": run_id,
                    "attempt": attempt,
                    "step": step,
                    "slot": slot,
                    "prompt": prompt,
                    "text": text,
                    "at": utc_now(),
                }
            ],
        )


def list_samples(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Sample answers of a run: attempt, step, slot, prompt, text, at; in order of step."""
    table = tables.samples
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.step, table.c.slot, table.c.attempt)
    with store.read() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]
