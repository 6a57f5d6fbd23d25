"""Metrics of items, statistics over them, and a judge model."""
