"""Measuring defenses: cases in, rows with counts and intervals out."""
