"""Meshes, placement, memory, compilation, and the processes of a run."""
