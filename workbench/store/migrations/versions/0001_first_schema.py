"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from workbench.store.tables import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("name", name="uq_datasets_name"),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("archived_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column(
            "dataset_id", sa.String(40), sa.ForeignKey("datasets.id", name="fk_versions_dataset_id"), nullable=False
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("parent_id", sa.String(40), sa.ForeignKey("versions.id", name="fk_versions_parent_id")),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("dataset_id", "number", name="uq_versions_dataset_id_number"),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("name", name="uq_models_name"),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("base_digest", sa.String(64)),
        sa.Column("info", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("archived_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
    )
    op.create_table(
        "servers",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("name", name="uq_servers_name"),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("capabilities", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_servers"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("slot", sa.String(20), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failure", sa.JSON),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("queued_at", UtcDateTime),
        sa.Column("claimed_at", UtcDateTime),
        sa.Column("started_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("heartbeat_at", UtcDateTime),
        sa.Column("stop_requested_at", UtcDateTime),
        sa.Column("archived_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_table(
        "variants",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("name", name="uq_variants_name"),
        sa.Column("model_id", sa.String(40), sa.ForeignKey("models.id", name="fk_variants_model_id")),
        sa.Column("adapter_path", sa.Text),
        sa.Column("adapter_digest", sa.String(64)),
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_variants_run_id")),
        sa.Column("server_id", sa.String(40), sa.ForeignKey("servers.id", name="fk_variants_server_id")),
        sa.Column("remote_model", sa.Text),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("archived_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_variants"),
    )
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_attempts_run_id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("supervisor_pid", sa.Integer),
        sa.Column("supervisor_start", sa.Float),
        sa.Column("worker_pid", sa.Integer),
        sa.Column("worker_start", sa.Float),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("exit_code", sa.Integer),
        sa.Column("resumed_step", sa.Integer),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_attempts"),
    )
    op.create_table(
        "metrics",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_metrics_run_id"), nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name", "attempt", "step", name="pk_metrics"),
    )
    op.create_table(
        "samples",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_samples_run_id"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt", "step", "slot", name="pk_samples"),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("title", sa.String(300), nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("variants", sa.JSON, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("user_turns", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("archived_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column(
            "variant_id", sa.String(40), sa.ForeignKey("variants.id", name="fk_completions_variant_id"), nullable=False
        ),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("fingerprint", sa.String(120)),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("finish_reason", sa.String(20)),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("first_token_s", sa.Float),
        sa.Column("error", sa.Text),
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_completions_run_id")),
        sa.Column("row_id", sa.String(60)),
        sa.Column(
            "conversation_id", sa.String(40), sa.ForeignKey("conversations.id", name="fk_completions_conversation_id")
        ),
        sa.Column("pane", sa.Integer),
        sa.Column("turn", sa.Integer),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_completions"),
    )
    op.create_table(
        "scores",
        sa.Column(
            "completion_id",
            sa.String(40),
            sa.ForeignKey("completions.id", name="fk_scores_completion_id"),
            nullable=False,
        ),
        sa.Column("scorer", sa.String(60), nullable=False),
        sa.Column("passed", sa.Boolean),
        sa.Column("value", sa.Float),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("completion_id", "scorer", name="pk_scores"),
    )
    op.create_table(
        "drafts",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_drafts"),
    )
    op.create_index("ix_runs_state_slot", "runs", ["state", "slot"])
    op.create_index("ix_runs_created_at", "runs", ["created_at"])
    op.create_index("ix_completions_run_id_row_id", "completions", ["run_id", "row_id"])
    op.create_index("ix_completions_conversation_id_turn_pane", "completions", ["conversation_id", "turn", "pane"])
