"""Classifiers small enough to train on a CPU, one a file."""
