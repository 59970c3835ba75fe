"""Self-instruct: the generator's replies, the candidates read from them, and reviews.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from workbench.store.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of candidates."""
    op.create_table(
        "generator_replies",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column(
            "run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_generator_replies_run_id"), nullable=False
        ),
        sa.Column("key", sa.String(120), nullable=False),
        sa.Column("step", sa.String(20), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.String(20)),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("fingerprint", sa.String(120)),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("parsed", sa.Integer),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_generator_replies"),
    )
    op.create_index("ix_generator_replies_run_id_key", "generator_replies", ["run_id", "key"])
    op.create_table(
        "candidates",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", name="fk_candidates_run_id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column(
            "reply_id",
            sa.String(40),
            sa.ForeignKey("generator_replies.id", name="fk_candidates_reply_id"),
            nullable=False,
        ),
        sa.Column("instruction", sa.Text, nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("score", sa.Float),
        sa.Column("nearest_kind", sa.String(20)),
        sa.Column("nearest_id", sa.String(60)),
        sa.Column("nearest_text", sa.Text),
        sa.Column("wanted", sa.Boolean, nullable=False),
        sa.Column("is_classification", sa.Boolean),
        sa.Column("instances", sa.JSON),
        sa.Column("instance_reason", sa.String(40)),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("run_id", "position", name="uq_candidates_run_id_position"),
        sa.PrimaryKeyConstraint("id", name="pk_candidates"),
    )
    op.create_table(
        "candidate_reviews",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column(
            "candidate_id",
            sa.String(40),
            sa.ForeignKey("candidates.id", name="fk_candidate_reviews_candidate_id"),
            nullable=False,
        ),
        sa.Column("reviewer", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("instruction", sa.Text),
        sa.Column("instances", sa.JSON),
        sa.Column("nonce", sa.String(80), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("nonce", name="uq_candidate_reviews_nonce"),
        sa.PrimaryKeyConstraint("id", name="pk_candidate_reviews"),
    )
    op.create_index("ix_candidate_reviews_candidate_id_created_at", "candidate_reviews", ["candidate_id", "created_at"])
    op.create_table(
        "candidate_review_undos",
        sa.Column(
            "review_id",
            sa.String(40),
            sa.ForeignKey("candidate_reviews.id", name="fk_candidate_review_undos_review_id"),
            nullable=False,
        ),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("review_id", name="pk_candidate_review_undos"),
    )
