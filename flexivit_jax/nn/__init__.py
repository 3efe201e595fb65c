"""Layers; none knows a whole model."""
