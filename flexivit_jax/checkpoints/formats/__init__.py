"""Checkpoint formats of other programs, by renaming rules."""
