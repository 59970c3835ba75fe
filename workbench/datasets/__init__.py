"""Datasets: reading files, formats, immutable versions, statistics, export, and what a chat template makes of a row."""
