"""What an answer is worth, worked out from its text alone or beside a reference: rule scorers and metrics."""
