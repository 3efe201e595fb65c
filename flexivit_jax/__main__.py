"""`python -m flexivit_jax NAME ...`, the same as `flexivit NAME ...`."""

from flexivit_jax.cli import main

if __name__ == "__main__":
  main.console()
