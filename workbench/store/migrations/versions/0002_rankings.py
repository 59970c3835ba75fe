"""Rankings.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from workbench.store.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of rankings."""
    op.create_table(
        "rank_queues",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("name", name="uq_rank_queues_name"),
        sa.Column("guidelines", sa.Text, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("repeats", sa.Float, nullable=False),
        sa.Column("source", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("archived_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_rank_queues"),
    )
    op.create_table(
        "rank_items",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column(
            "queue_id", sa.String(40), sa.ForeignKey("rank_queues.id", name="fk_rank_items_queue_id"), nullable=False
        ),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("completions", sa.JSON, nullable=False),
        sa.Column("merged", sa.JSON, nullable=False),
        sa.Column("row_id", sa.String(60)),
        sa.UniqueConstraint("queue_id", "position", name="uq_rank_items_queue_id_position"),
        sa.PrimaryKeyConstraint("id", name="pk_rank_items"),
    )
    op.create_table(
        "rank_claims",
        sa.Column(
            "item_id", sa.String(40), sa.ForeignKey("rank_items.id", name="fk_rank_claims_item_id"), nullable=False
        ),
        sa.Column("rater", sa.String(200), nullable=False),
        sa.Column("claimed_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("item_id", "rater", name="pk_rank_claims"),
    )
    op.create_table(
        "rankings",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("item_id", sa.String(40), sa.ForeignKey("rank_items.id", name="fk_rankings_item_id"), nullable=False),
        sa.Column("rater", sa.String(200), nullable=False),
        sa.Column("shown", sa.JSON, nullable=False),
        sa.Column("tiers", sa.JSON, nullable=False),
        sa.Column("unusable", sa.JSON, nullable=False),
        sa.Column("all_bad", sa.Boolean, nullable=False),
        sa.Column("skipped", sa.Text),
        sa.Column("confidence", sa.Integer),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("edited", sa.Text),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("repeat", sa.Boolean, nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("nonce", sa.String(80), nullable=False),
        sa.UniqueConstraint("nonce", name="uq_rankings_nonce"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rankings"),
    )
    op.create_table(
        "ranking_undos",
        sa.Column(
            "ranking_id",
            sa.String(40),
            sa.ForeignKey("rankings.id", name="fk_ranking_undos_ranking_id"),
            nullable=False,
        ),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("ranking_id", name="pk_ranking_undos"),
    )
    op.create_index("ix_rankings_item_id_rater", "rankings", ["item_id", "rater"])
