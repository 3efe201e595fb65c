"""Multiply-adds of a traced program."""

import math

import jax
import jax.numpy as jnp

from flexivit_jax.core.tokens import patchify


def forward(model, image_hw, patch_hw, rows=1):
  """The forward pass, and what to trace it with."""
  shape = (rows, *image_hw, model.channels)
  images = jax.ShapeDtypeStruct(shape, jnp.uint8)

  def init(images):
    return model.init(jax.random.key(0), patchify(images, patch_hw))

  def forward(params, images):
    out = model.apply(params, patchify(images, patch_hw))
    return out.pooled if out.logits is None else out.logits

  return forward, (jax.eval_shape(init, images), images)


def products(function, *arguments) -> int:
  """Of all products and convolutions, padding included."""
  return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def _products(jaxpr):
  total = 0
  for eqn in jaxpr.eqns:
    out = eqn.outvars[0].aval.shape
    match eqn.primitive.name:
      case "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        total += math.prod(out) * math.prod(shape[i] for i in contracted)
      case "conv_general_dilated":
        h, w, ins, _ = eqn.invars[1].aval.shape
        total += math.prod(out) * h * w * ins
    times = eqn.params.get("length", 1)  # of a scan
    for value in eqn.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        total += times * _products(inner)
  return total
