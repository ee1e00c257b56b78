"""Warm queries: beside PyTorch eager, and many at the same time."""
