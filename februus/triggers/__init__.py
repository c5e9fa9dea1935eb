"""Triggers: pictures in, triggered pictures out."""
