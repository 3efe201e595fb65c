"""Norms of gradients, updates and parameters, whole and by top-level name."""

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from flexivit_jax.core.metric import Metric


def names(params: Mapping) -> tuple[str, ...]:
  """Of the entries of `measure`: "gradient_norm/embedding", "update_norm".

  The norm of all gradients is a metric of its own.
  """
  groups = sorted(params)
  return (
    *(f"gradient_norm/{group}" for group in groups),
    *("update_norm", *(f"update_norm/{group}" for group in groups)),
    *("parameter_norm", *(f"parameter_norm/{group}" for group in groups)),
  )


def measure(gradients: Mapping, updates: Mapping, params: Mapping) -> Metric:
  """Euclidean norms of one step in the order of `names`; totals f32 `[n]`.

  They share an array: a step takes and returns one buffer instead of many. The
  sums of squares of the leaves are also those of clipping, so that the compiler
  computes them once; only the parameters are read for this alone.

  Args:
    params: those before the step.
  """
  groups = sorted(params)
  found = [optax.tree.norm(gradients[group]) for group in groups]
  for tree in (updates, params):
    found += [optax.tree.norm(tree)]
    found += [optax.tree.norm(tree[group]) for group in groups]
  return Metric(jnp.stack(found).astype(jnp.float32), jnp.ones(()))
