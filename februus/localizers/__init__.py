"""Localizers: a model and pictures in, heatmaps out."""
