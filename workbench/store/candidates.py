"""Self-instruct in the store: what the generator replied, the candidates read from it, and what people say of them.

Replies and reviews are only ever appended; a review taken back is a mark of its own. A candidate's first decision
stands as it was written; its examples are filled in once, when they are there. What makes a good candidate is left to
`workbench.self_instruct`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import Select, String, cast, func, insert, select, update

from workbench.errors import NotFound, UsageError
from workbench.records import Record, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store
from workbench.store.datasets import check_name

Verdict = Literal["accept", "edit", "reject"]
VERDICTS: tuple[Verdict, ...] = ("accept", "edit", "reject")
State = Literal["kept", "waiting", "rejected"]
_BATCH = 500

_replies, _candidates = tables.generator_replies, tables.candidates
_reviews, _undos = tables.candidate_reviews, tables.candidate_review_undos


class Instance(Record):
    """One worked example of a task."""

    input: str = ""
    """What the instruction is applied to; empty where it needs nothing."""
    output: str
    """The answer."""
    reason: str | None = None
    """Why it was thrown out, a key of `workbench.self_instruct.filters.INSTANCE_REASONS`; None where it is kept."""


class Reply(Record):
    """What the generator said to one request."""

    id: str
    """`rep_…`"""
    run_id: str
    """The run that asked."""
    key: str
    """Which request it answers, unique within the run except for tries that failed."""
    step: str
    """tasks, sort, inputs or labels."""
    round: int
    """1 for the first."""
    prompt: str
    """What was asked."""
    text: str
    """The reply; empty where there was none."""
    finish_reason: str | None = None
    """stop or length, as far as the server says."""
    tokens: int = 0
    """Length of the reply."""
    seconds: float = 0.0
    """From request to last token."""
    fingerprint: str | None = None
    """What produced it; a remote server's own claim is unverified."""
    verified: bool = False
    """Whether the fingerprint is the local engine's."""
    error: str | None = None
    """Why there is no reply."""
    parsed: int | None = None
    """Candidates that were read from it; None where nothing was read from it yet, or it is no list of tasks."""
    created_at: datetime
    """When it came."""


class Candidate(Record):
    """A task the generator wrote, with what was decided about it in the run."""

    id: str
    """`can_…`"""
    run_id: str
    """The run that made it."""
    position: int
    """Its place among the run's candidates, from 0; novelty is decided in this order."""
    round: int
    """1 for the first."""
    reply_id: str
    """The reply it was read from."""
    instruction: str
    """The task."""
    reason: str | None = None
    """Why the instruction was thrown out; None where it passed."""
    score: float | None = None
    """ROUGE-L F1 to the nearest text; None where another filter threw it out before."""
    nearest_kind: Literal["seed", "candidate", "held_out"] | None = None
    """What the nearest text is."""
    nearest_id: str | None = None
    """Row id of the seed, id of the candidate."""
    nearest_text: str | None = None
    """The nearest text itself."""
    wanted: bool = False
    """Whether the generator is asked for examples."""
    is_classification: bool | None = None
    """Whether its answers are a few fixed labels; None where nobody asked."""
    instances: tuple[Instance, ...] | None = None
    """Its examples, thrown-out ones with their reasons; None where there are none yet."""
    instance_reason: str | None = None
    """Why it has no usable example; None where it has one or nobody asked."""
    created_at: datetime
    """When it was read."""

    @property
    def usable(self) -> bool:
        """Whether it has an example that passed the filters."""
        return self.instances is not None and self.instance_reason is None

    @property
    def state(self) -> State:
        """What the run decided: kept, rejected, or waiting for examples."""
        if self.reason is not None or self.instance_reason is not None:
            return "rejected"
        return "kept" if self.usable else "waiting"

    @property
    def why(self) -> str | None:
        """Why it was rejected."""
        return self.reason or self.instance_reason


class Review(Record):
    """What a person says of a candidate. Only ever appended; an undo is a mark of its own."""

    id: str
    """`rev_…`"""
    candidate_id: str
    """The candidate."""
    reviewer: str
    """Who says so."""
    verdict: Verdict
    """accept as it is, edit and accept, or reject."""
    instruction: str | None = None
    """The reviewer's wording, of an edit."""
    instances: tuple[Instance, ...] | None = None
    """The reviewer's examples, of an edit."""
    nonce: str = Field(min_length=1, max_length=80)
    """Given by the browser; the same submission twice is one review."""
    created_at: datetime
    """When it was given."""
    undone_at: datetime | None = None
    """When it was taken back."""


# ---- replies and candidates ----


def add_replies(store: Store, replies: Iterable[Reply], updates: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Append replies and write what they tell of candidates, in one transaction.

    Args:
        store: the store.
        replies: what came.
        updates: candidate id → columns to fill in.
    """
    values = [reply.model_dump() for reply in replies]
    with store.write() as connection:
        if values:
            connection.execute(insert(_replies), values)
        for candidate_id, columns in (updates or {}).items():
            connection.execute(update(_candidates).where(_candidates.c.id == candidate_id).values(_plain(columns)))


def add_candidates(store: Store, candidates: Sequence[Candidate], parsed: Mapping[str, int]) -> None:
    """Append the candidates read from some replies and mark these as read, in one transaction.

    Args:
        store: the store.
        candidates: in their order.
        parsed: reply id → number of candidates read from it.
    """
    with store.write() as connection:
        if candidates:
            connection.execute(insert(_candidates), [_plain(candidate.model_dump()) for candidate in candidates])
        for reply_id, count in parsed.items():
            connection.execute(update(_replies).where(_replies.c.id == reply_id).values(parsed=count))


def list_replies(store: Store, run_id: str, *, step: str | None = None) -> list[Reply]:
    """Replies of a run, oldest first, failed tries among them.

    Args:
        store: the store.
        run_id: the run.
        step: only of this step.
    """
    query = select(_replies).where(_replies.c.run_id == run_id).order_by(_replies.c.created_at, _replies.c.id)
    if step is not None:
        query = query.where(_replies.c.step == step)
    with store.read() as connection:
        return [Reply.model_construct(**row._mapping) for row in connection.execute(query)]


def get_reply(store: Store, reply_id: str) -> Reply:
    """The reply of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        row = connection.execute(select(_replies).where(_replies.c.id == reply_id)).first()
    if row is None:
        raise NotFound("no such reply", value=reply_id)
    return Reply(**row._mapping)


def count_replies(store: Store, run_id: str) -> tuple[int, int, int]:
    """How many requests a run made, how many of them failed, and how many lists of tasks gave no candidate."""
    table = _replies
    query = select(
        func.count(),
        func.count(table.c.error),
        func.count(table.c.id).filter(table.c.parsed == 0, table.c.step == "tasks"),
    ).where(table.c.run_id == run_id)
    with store.read() as connection:
        made, failed, unread = connection.execute(query).one()
    return int(made), int(failed), int(unread)


def list_fingerprints(store: Store, run_id: str) -> list[str]:
    """What produced a run's replies, as far as it was told, each once."""
    column = _replies.c.fingerprint
    query = select(column).where(_replies.c.run_id == run_id, column.is_not(None)).distinct().order_by(column)
    with store.read() as connection:
        return [str(value) for value in connection.execute(query).scalars()]


def list_candidates(store: Store, run_id: str, *, ids: Sequence[str] | None = None) -> list[Candidate]:
    """Candidates of a run in their order.

    Args:
        store: the store.
        run_id: the run.
        ids: only these.
    """
    query = select(_candidates).where(_candidates.c.run_id == run_id).order_by(_candidates.c.position)
    with store.read() as connection:
        if ids is None:
            return [_candidate(row) for row in connection.execute(query)]
        found = []
        for start in range(0, len(ids), _BATCH):
            part = query.where(_candidates.c.id.in_(ids[start : start + _BATCH]))
            found += [_candidate(row) for row in connection.execute(part)]
    return sorted(found, key=lambda candidate: candidate.position)


def get_candidate(store: Store, candidate_id: str) -> Candidate:
    """The candidate of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        row = connection.execute(select(_candidates).where(_candidates.c.id == candidate_id)).first()
    if row is None:
        raise NotFound("no such candidate", value=candidate_id, remedy="Reload: its run may have been deleted.")
    return _candidate(row)


def stamp_candidates(store: Store, run_id: str) -> tuple[int, ...]:
    """Counts that change whenever a run's candidates do: whoever reads them may keep what was read until then."""
    table = _candidates

    def letters(column: Any) -> Any:
        return func.coalesce(func.sum(func.length(cast(column, String))), 0)

    counts = select(
        func.count(),
        func.count(table.c.is_classification),
        func.count(table.c.instance_reason),
        letters(table.c.instruction),
        letters(table.c.nearest_text),
        letters(table.c.instances),
    ).where(table.c.run_id == run_id)
    with store.read() as connection:
        return tuple(map(int, connection.execute(counts).one()))


def _candidate(row: Any) -> Candidate:
    values = dict(row._mapping)
    if values["instances"] is not None:
        values["instances"] = tuple(Instance.model_construct(**each) for each in values["instances"])
    return Candidate.model_construct(**values)


def _plain(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns with examples as JSON."""
    values = dict(columns)
    if values.get("instances") is not None:
        values["instances"] = [
            each.model_dump() if isinstance(each, Instance) else each for each in values["instances"]
        ]
    return values


# ---- reviews ----


def add_review(
    store: Store,
    candidate_id: str,
    reviewer: str,
    verdict: Verdict,
    *,
    nonce: str,
    instruction: str | None = None,
    instances: Sequence[Instance] | None = None,
) -> Review:
    """Append a review; the same nonce again gives what was stored and stores nothing.

    Args:
        store: the store.
        candidate_id: the candidate.
        reviewer: who says so.
        verdict: accept, edit or reject.
        nonce: given by the browser, once per submission; at most 80 characters.
        instruction: the reviewer's wording, of an edit.
        instances: the reviewer's examples, of an edit.

    Raises:
        NotFound: no such candidate.
        UsageError: the verdict, the name or the nonce does not hold.
    """
    reviewer = check_reviewer(reviewer)
    if verdict not in VERDICTS:
        raise UsageError("no such verdict", place="verdict", value=verdict, remedy=f"Say {', '.join(VERDICTS)}.")
    if not nonce or len(nonce) > 80:
        raise UsageError("a review needs a nonce of 1 to 80 characters", place="nonce", value=nonce)
    with store.write() as connection:
        known = connection.execute(_joined().where(_reviews.c.nonce == nonce)).first()
        if known is not None:
            stored = _review(known)
            if (stored.candidate_id, stored.reviewer) != (candidate_id, reviewer):
                raise UsageError("this nonce belongs to another review", place="nonce", value=nonce)
            return stored
        there = select(_candidates.c.id).where(_candidates.c.id == candidate_id)
        if connection.execute(there).first() is None:
            raise NotFound("no such candidate", value=candidate_id, remedy="Reload: its run may have been deleted.")
        review = Review(
            id=new_id("rev"),
            candidate_id=candidate_id,
            reviewer=reviewer,
            verdict=verdict,
            instruction=instruction,
            instances=None if instances is None else tuple(instances),
            nonce=nonce,
            created_at=utc_now(),
        )
        connection.execute(insert(_reviews).values(_plain(review.model_dump(exclude={"undone_at"}))))
    return review


def undo_review(store: Store, run_id: str, reviewer: str, *, nonce: str | None = None) -> Review | None:
    """Take back a person's last standing review in a run; the one before it counts again.

    Args:
        store: the store.
        run_id: the run.
        reviewer: whose review.
        nonce: take back the review that was given under it instead; one that is taken back already stays so.

    Returns:
        The review that was taken back; None where there is none.
    """
    found = (
        _joined()
        .join(_candidates, _candidates.c.id == _reviews.c.candidate_id)
        .where(_candidates.c.run_id == run_id, _reviews.c.reviewer == check_reviewer(reviewer))
        .order_by(_reviews.c.created_at.desc(), _reviews.c.id.desc())
        .limit(1)
    )
    wanted = found.where(_undos.c.at.is_(None)) if nonce is None else found.where(_reviews.c.nonce == nonce)
    with store.write() as connection:
        row = connection.execute(wanted).first()
        if row is None:
            return None
        if row.undone_at is not None:
            return _review(row)
        now = utc_now()
        connection.execute(insert(_undos).values(review_id=row.id, at=now))
    return _review(row).model_copy(update={"undone_at": now})


def list_reviews(store: Store, run_id: str, *, undone: bool = False) -> list[Review]:
    """Reviews of a run's candidates, oldest first.

    Args:
        store: the store.
        run_id: the run.
        undone: also those that were taken back.
    """
    query = (
        _joined()
        .join(_candidates, _candidates.c.id == _reviews.c.candidate_id)
        .where(_candidates.c.run_id == run_id)
        .order_by(_reviews.c.created_at, _reviews.c.id)
    )
    if not undone:
        query = query.where(_undos.c.at.is_(None))
    with store.read() as connection:
        return [_review(row) for row in connection.execute(query)]


def latest_reviews(store: Store, run_id: str) -> dict[str, Review]:
    """The review that counts for each candidate: the newest that was not taken back, whoever gave it."""
    return {review.candidate_id: review for review in list_reviews(store, run_id)}


def check_reviewer(name: str) -> str:
    """A reviewer's name, trimmed and in one Unicode form.

    Raises:
        UsageError: it is empty or longer than 200 characters.
    """
    return check_name(unicodedata.normalize("NFC", name), "reviewer")


def _joined() -> Select[Any]:
    return select(_reviews, _undos.c.at.label("undone_at")).outerjoin(_undos, _undos.c.review_id == _reviews.c.id)


def _review(row: Any) -> Review:
    return Review(**row._mapping)
