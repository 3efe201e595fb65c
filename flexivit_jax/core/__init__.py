"""What everything else stands on: token containers and resize mathematics.

numpy and jax only.
"""
