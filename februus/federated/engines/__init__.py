"""Engines: where the clients of a round run."""
