"""Checkpoint formats: flat {path: array} or trees, never modules."""
