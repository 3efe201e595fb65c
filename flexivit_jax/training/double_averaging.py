"""Gradients averaged twice, as the LSS Transformer does it."""

import jax
from jax import lax
from jax.sharding import PartitionSpec

from flexivit_jax.devices.axes import DATA, SEQ
from flexivit_jax.training import step


def gradients(
  measure: step.Measure,
  params,
  batch,
  key,
  *,
  by_token,
  images: float | None = None,
  accumulate: int = 1,
):
  """As `step.mean_gradients`, with the reductions written out.

  The whole model runs on each device's own tokens, in one `shard_map`: a device
  has the gradient of its rows' loss by the way of its own tokens alone. Two
  averages make it the gradient of the batch (arXiv:2311.02382, double gradient
  averaging), both at the end, once for all microbatches:

  1. over the devices of a sequence, of all that they share. A table with a row
     for each token is not in it: each device has the rows of its own tokens,
     which no other knows of.
  2. over the devices with the same tokens of other sequences, of everything.

  The first needs care about its scale. Where images are pooled, the loss of a
  row reaches every device of its sequence, and each hands its gradient on to
  all: what arrives is P times the device's part, for P devices. The mean over P
  devices is then the gradient of what they share, but a table by token has to
  be divided by P as well. Without it, it is P times too large, which Adam does
  not show and a step of SGD, or clipping by the norm, does.

  Stochastic depth draws alike on the devices of a sequence, so that a branch is
  left out of the whole image; dropout draws for each token.

  Args:
    measure: of the whole model, for rows and tokens of one device.
    by_token: a tree of bool like params: whether it is a table by token, which
      lies over `seq`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  groups = mesh.shape[DATA]

  def own(params, batch, key):
    key = jax.random.fold_in(key, lax.axis_index(DATA))
    found, measured = step.summed_gradients(
      measure, params, batch, key, accumulate
    )
    measured = lax.psum(measured, DATA)
    count = measured["loss"].count if images is None else images

    def average(gradient, is_by_token):
      if is_by_token:
        return lax.pmean(_own_share(gradient), DATA)
      # Both means at once: the same number, fewer bytes.
      return lax.pmean(gradient, (DATA, SEQ))

    means = jax.tree.map(average, found, by_token)
    return step.divided(means, count / groups), measured

  where = jax.tree.map(
    lambda by: PartitionSpec(None, SEQ) if by else PartitionSpec(),
    by_token,
  )
  return jax.shard_map(
    own,
    in_specs=(where, PartitionSpec(DATA), PartitionSpec()),
    out_specs=(where, PartitionSpec()),
    # What a device computes is meant to differ from the others'.
    check_vma=False,
  )(params, batch, key)


def _own_share(gradient):
  return gradient / lax.axis_size(SEQ)
