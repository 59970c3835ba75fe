"""Completions, their scores, and Playground conversations. Completions are only ever appended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import insert, select, update

from workbench.errors import NotFound
from workbench.records import Completion, Conversation, Sampling, Score, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store, row_dict


def add_completions(store: Store, completions: Iterable[Completion]) -> None:
    """Append completions in one transaction."""
    values = [
        completion.model_dump(mode="json", exclude={"created_at"}) | {"created_at": completion.created_at}
        for completion in completions
    ]
    if values:
        with store.write() as connection:
            connection.execute(insert(tables.completions), values)


def get_completion(store: Store, completion_id: str) -> Completion:
    """The completion of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        row = connection.execute(select(tables.completions).where(tables.completions.c.id == completion_id)).first()
    if row is None:
        raise NotFound("no such completion", value=completion_id)
    return Completion(**row_dict(row))


def list_completions(
    store: Store,
    *,
    run_id: str | None = None,
    conversation_id: str | None = None,
    variant_id: str | None = None,
    row_ids: Sequence[str] | None = None,
) -> list[Completion]:
    """Completions, oldest first."""
    table = tables.completions
    query = select(table).order_by(table.c.created_at, table.c.id)
    for column, value in (
        (table.c.run_id, run_id),
        (table.c.conversation_id, conversation_id),
        (table.c.variant_id, variant_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if row_ids is not None:
        query = query.where(table.c.row_id.in_(row_ids))
    with store.read() as connection:
        return [Completion(**row_dict(row)) for row in connection.execute(query)]


def add_scores(store: Store, scores: Iterable[Score]) -> None:
    """Keep scores; one that is already there stays as it was."""
    table = tables.scores
    with store.write() as connection:
        for score in scores:
            known = connection.execute(
                select(table.c.scorer).where(
                    table.c.completion_id == score.completion_id, table.c.scorer == score.scorer
                )
            ).first()
            if known is None:
                connection.execute(insert(table).values(score.model_dump()))


def list_scores(store: Store, run_id: str) -> list[Score]:
    """Scores of all completions that a run asked for."""
    query = (
        select(tables.scores)
        .join(tables.completions, tables.completions.c.id == tables.scores.c.completion_id)
        .where(tables.completions.c.run_id == run_id)
    )
    with store.read() as connection:
        return [Score(**row._mapping) for row in connection.execute(query)]


def create_conversation(
    store: Store, *, title: str, system: str, variants: Sequence[str], sampling: Sampling
) -> Conversation:
    """Begin a Playground conversation."""
    conversation = Conversation(
        id=new_id("cnv"),
        title=title[:300],
        system=system,
        variants=tuple(variants),
        sampling=sampling,
        created_at=utc_now(),
    )
    values = conversation.model_dump(mode="json", exclude={"created_at"}) | {"created_at": conversation.created_at}
    with store.write() as connection:
        connection.execute(insert(tables.conversations).values(values))
    return conversation


def get_conversation(store: Store, conversation_id: str) -> Conversation:
    """The conversation of this id.

    Raises:
        NotFound: there is none.
    """
    table = tables.conversations
    with store.read() as connection:
        row = connection.execute(select(table).where(table.c.id == conversation_id)).first()
    if row is None:
        raise NotFound("no such conversation", value=conversation_id)
    return Conversation(**row_dict(row))


def list_conversations(store: Store, *, limit: int = 50, archived: bool = False) -> list[Conversation]:
    """Conversations, newest first."""
    table = tables.conversations
    query = select(table).order_by(table.c.created_at.desc()).limit(limit)
    if not archived:
        query = query.where(table.c.archived_at.is_(None))
    with store.read() as connection:
        return [Conversation(**row_dict(row)) for row in connection.execute(query)]


def update_conversation(store: Store, conversation_id: str, **changes: Any) -> Conversation:
    """Change title, system, variants, sampling, user_turns or archived_at."""
    for key in ("variants", "user_turns"):
        if key in changes:
            changes[key] = list(changes[key])
    if isinstance(changes.get("sampling"), Sampling):
        changes["sampling"] = changes["sampling"].model_dump(mode="json")
    with store.write() as connection:
        connection.execute(
            update(tables.conversations).where(tables.conversations.c.id == conversation_id).values(**changes)
        )
    return get_conversation(store, conversation_id)
