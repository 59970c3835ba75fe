"""The store's tables. Change them only together with a new migration in `migrations/versions`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps no zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Aware in, naive UTC for SQLite."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Always aware out."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _id(name: str = "id") -> Column[str]:
    return Column(name, String(40), primary_key=True)


datasets = Table(
    "datasets",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("tags", JSON, nullable=False, default=list),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
)

versions = Table(
    "versions",
    metadata,
    _id(),
    Column("dataset_id", String(40), ForeignKey("datasets.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("parent_id", String(40), ForeignKey("versions.id")),
    Column("content_hash", String(64), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("message", Text, nullable=False, default=""),
    Column("provenance", JSON, nullable=False, default=dict),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("dataset_id", "number"),
)

models = Table(
    "models",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("source", String(20), nullable=False),
    Column("reference", Text, nullable=False),
    Column("path", Text),
    Column("base_digest", String(64)),
    Column("info", JSON, nullable=False, default=dict),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
)

servers = Table(
    "servers",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("base_url", Text, nullable=False),
    Column("capabilities", JSON, nullable=False, default=dict),
    Column("created_at", UtcDateTime, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    _id(),
    Column("kind", String(40), nullable=False),
    Column("name", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("slot", String(20), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("progress", JSON, nullable=False, default=dict),
    Column("attempt", Integer, nullable=False, default=0),
    Column("failure", JSON),
    Column("result", JSON, nullable=False, default=dict),
    Column("tags", JSON, nullable=False, default=list),
    Column("notes", Text, nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime),
    Column("claimed_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
    Column("stop_requested_at", UtcDateTime),
    Column("archived_at", UtcDateTime),
    Index(None, "state", "slot"),
    Index(None, "created_at"),
)

variants = Table(
    "variants",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("model_id", String(40), ForeignKey("models.id")),
    Column("adapter_path", Text),
    Column("adapter_digest", String(64)),
    Column("run_id", String(40), ForeignKey("runs.id")),
    Column("server_id", String(40), ForeignKey("servers.id")),
    Column("remote_model", Text),
    Column("tags", JSON, nullable=False, default=list),
    Column("notes", Text, nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
)

attempts = Table(
    "attempts",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("host", String(200), nullable=False),
    Column("boot_id", String(64), nullable=False),
    Column("supervisor_pid", Integer),
    Column("supervisor_start", Float),
    Column("worker_pid", Integer),
    Column("worker_start", Float),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("exit_code", Integer),
    Column("resumed_step", Integer),
)

metrics = Table(
    "metrics",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id"), primary_key=True),
    Column("name", String(60), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("value", Float, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

samples = Table(
    "samples",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("prompt", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

conversations = Table(
    "conversations",
    metadata,
    _id(),
    Column("title", String(300), nullable=False),
    Column("system", Text, nullable=False, default=""),
    Column("variants", JSON, nullable=False, default=list),
    Column("sampling", JSON, nullable=False, default=dict),
    Column("user_turns", JSON, nullable=False, default=list),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
)

completions = Table(
    "completions",
    metadata,
    _id(),
    Column("variant_id", String(40), ForeignKey("variants.id"), nullable=False),
    Column("prompt", JSON, nullable=False),
    Column("text", Text, nullable=False),
    Column("sampling", JSON, nullable=False),
    Column("fingerprint", String(120)),
    Column("verified", Boolean, nullable=False, default=False),
    Column("finish_reason", String(20)),
    Column("tokens", Integer, nullable=False, default=0),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("first_token_s", Float),
    Column("error", Text),
    Column("run_id", String(40), ForeignKey("runs.id")),
    Column("row_id", String(60)),
    Column("conversation_id", String(40), ForeignKey("conversations.id")),
    Column("pane", Integer),
    Column("turn", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "run_id", "row_id"),
    Index(None, "conversation_id", "turn", "pane"),
)

scores = Table(
    "scores",
    metadata,
    Column("completion_id", String(40), ForeignKey("completions.id"), primary_key=True),
    Column("scorer", String(60), primary_key=True),
    Column("passed", Boolean),
    Column("value", Float),
    Column("detail", JSON, nullable=False, default=dict),
)

drafts = Table(
    "drafts",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

rank_queues = Table(
    "rank_queues",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("guidelines", Text, nullable=False, default=""),
    Column("overlap", Integer, nullable=False, default=1),
    Column("repeats", Float, nullable=False, default=0.0),
    Column("source", JSON, nullable=False, default=dict),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
)

rank_items = Table(
    "rank_items",
    metadata,
    _id(),
    Column("queue_id", String(40), ForeignKey("rank_queues.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("prompt", JSON, nullable=False),
    Column("completions", JSON, nullable=False),
    Column("merged", JSON, nullable=False, default=dict),
    Column("row_id", String(60)),
    UniqueConstraint("queue_id", "position"),
)

rank_claims = Table(
    "rank_claims",
    metadata,
    Column("item_id", String(40), ForeignKey("rank_items.id"), primary_key=True),
    Column("rater", String(200), primary_key=True),
    Column("claimed_at", UtcDateTime, nullable=False),
)

rankings = Table(
    "rankings",
    metadata,
    _id(),
    Column("item_id", String(40), ForeignKey("rank_items.id"), nullable=False),
    Column("rater", String(200), nullable=False),
    Column("shown", JSON, nullable=False),
    Column("tiers", JSON, nullable=False, default=list),
    Column("unusable", JSON, nullable=False, default=list),
    Column("all_bad", Boolean, nullable=False, default=False),
    Column("skipped", Text),
    Column("confidence", Integer),
    Column("comment", Text, nullable=False, default=""),
    Column("edited", Text),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("repeat", Boolean, nullable=False, default=False),
    Column("source", String(20), nullable=False, default="rank"),
    Column("nonce", String(80), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "item_id", "rater"),
)

ranking_undos = Table(
    "ranking_undos",
    metadata,
    Column("ranking_id", String(40), ForeignKey("rankings.id"), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)

generator_replies = Table(
    "generator_replies",
    metadata,
    _id(),
    Column("run_id", String(40), ForeignKey("runs.id"), nullable=False),
    Column("key", String(120), nullable=False),
    Column("step", String(20), nullable=False),
    Column("round", Integer, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("finish_reason", String(20)),
    Column("tokens", Integer, nullable=False, default=0),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("fingerprint", String(120)),
    Column("verified", Boolean, nullable=False, default=False),
    Column("error", Text),
    Column("parsed", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "run_id", "key"),
)

candidates = Table(
    "candidates",
    metadata,
    _id(),
    Column("run_id", String(40), ForeignKey("runs.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("reply_id", String(40), ForeignKey("generator_replies.id"), nullable=False),
    Column("instruction", Text, nullable=False),
    Column("reason", String(40)),
    Column("score", Float),
    Column("nearest_kind", String(20)),
    Column("nearest_id", String(60)),
    Column("nearest_text", Text),
    Column("wanted", Boolean, nullable=False, default=False),
    Column("is_classification", Boolean),
    Column("instances", JSON(none_as_null=True)),
    Column("instance_reason", String(40)),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("run_id", "position"),
)

candidate_reviews = Table(
    "candidate_reviews",
    metadata,
    _id(),
    Column("candidate_id", String(40), ForeignKey("candidates.id"), nullable=False),
    Column("reviewer", String(200), nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("instruction", Text),
    Column("instances", JSON(none_as_null=True)),
    Column("nonce", String(80), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "candidate_id", "created_at"),
)

candidate_review_undos = Table(
    "candidate_review_undos",
    metadata,
    Column("review_id", String(40), ForeignKey("candidate_reviews.id"), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)
