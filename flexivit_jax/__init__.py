"""Flexible Vision Transformers in JAX: `load`, `save`, `list_models`.

Importing this package imports nothing else: each of them brings in what it
needs when it is first used (PEP 562).
"""

import importlib

# Name to the module that has it.
_LAZY = {
  "load": "checkpoints.load",
  "save": "checkpoints.save",
  "list_models": "checkpoints.published",
}

__all__ = sorted(_LAZY)


def __getattr__(name):
  if name in _LAZY:
    module = importlib.import_module(f"flexivit_jax.{_LAZY[name]}")
    return getattr(module, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
