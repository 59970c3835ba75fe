"""Runs: background jobs in processes of their own, from launch to settled state."""
