"""Classifiers: small ones to train, any to load; each takes pictures in [0, 1] and travels with its card."""

from februus.models.card import Card
from februus.models.checkpoint import read_card, save_checkpoint
from februus.models.loading import build, load
from februus.models.normalized import Normalized

__all__ = ["Card", "Normalized", "build", "load", "read_card", "save_checkpoint"]
