"""Flexible Vision Transformers in JAX. Import the module you need, or `load`.

Importing this package imports nothing else: `load` brings in what it needs
when it is first used (PEP 562).
"""

__all__ = ["load"]


def __getattr__(name):
  if name == "load":
    from flexivit_jax.pretrained import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
