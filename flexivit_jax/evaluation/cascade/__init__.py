"""Cascades from large patches to small ones."""
