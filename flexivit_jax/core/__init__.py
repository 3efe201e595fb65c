"""Tokens, resizing, policies and errors; numpy and jax alone."""
