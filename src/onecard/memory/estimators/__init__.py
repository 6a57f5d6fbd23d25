"""Bytes of a workload as terms, from what a model is made of. Pure arithmetic."""
