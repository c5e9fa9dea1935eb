"""Attacks: what a malicious client does to its data and to its update."""
