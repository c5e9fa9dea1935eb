"""Detectors of backdoors: fit and score, each in one file; they know nothing of februus."""
