"""Aggregators: updates (K, D) in, one update (D,) out."""
