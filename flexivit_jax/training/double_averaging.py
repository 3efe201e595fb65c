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
  images: float | None = None,
  accumulate: int = 1,
):
  """As `step.mean_gradients`, with the reductions written out.

  The whole model runs on each device's own tokens, in one `shard_map`: a device
  has the gradient of its rows' loss by the way of its own tokens alone. Two
  averages make it the gradient of the batch (arXiv:2311.02382, double gradient
  averaging), both at the end, once for all microbatches:

  1. over the devices of a sequence;
  2. over the devices with the same tokens of other sequences.

  Where images are pooled, the loss of a row reaches every device of its
  sequence, and each hands its gradient on to all: what arrives is P times the
  device's part, for P devices. The mean over P devices is then the gradient.

  Stochastic depth draws alike on the devices of a sequence, so that a branch is
  left out of the whole image; dropout draws for each token.

  Args:
    measure: of the whole model, for rows and tokens of one device.
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

    # Both means at once: the same number, fewer bytes.
    means = lax.pmean(found, (DATA, SEQ))
    return step.divided(means, count / groups), measured

  return jax.shard_map(
    own,
    in_specs=(PartitionSpec(), PartitionSpec(DATA), PartitionSpec()),
    out_specs=(PartitionSpec(), PartitionSpec()),
    # What a device computes is meant to differ from the others'.
    check_vma=False,
  )(params, batch, key)
