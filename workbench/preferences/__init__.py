"""What people think is better: queues to rank, pairs and datasets from rankings, ratings, agreement, audits."""
