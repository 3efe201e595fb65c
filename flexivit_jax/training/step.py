"""The training state and the pure step that advances it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.metric import Metric
from flexivit_jax.training import norms
from flexivit_jax.training.state import TrainState, averaged, stream

# (params, batch, dropout_key) -> metrics, among them "loss".
Measure = Callable[..., dict[str, Metric]]
# (key, batch) -> batch, what is drawn on the devices for each step.
Augment = Callable[..., Any]


def zero_metrics(names) -> dict[str, Metric]:
  """What `train_step` adds to, for metrics of these names."""
  return {name: Metric.zero() for name in (*names, "gradient_norm")}


def train_step(
  state: TrainState,
  metrics: dict[str, Metric],
  batch,
  *,
  measure: Measure,
  tx: optax.GradientTransformation,
  images: float | None = None,
  augment: Augment | None = None,
  beside: Mapping[str, Metric] | None = None,
  accumulate: int = 1,
  ema: float | None = None,
) -> tuple[TrainState, dict[str, Metric]]:
  """One step down the gradient of the batch's loss.

  Args:
    metrics: sums so far of those that are wanted: any that `measure` returns,
      "gradient_norm", and "norms", which are those of `norms.names`.
    augment: changes the batch before it is measured; None: as it is.
    images: what the summed loss is divided by; None: the batch's own number of
      images, the mean. Where that varies, a constant makes every image weigh
      the same instead of every step.
    beside: metrics of the batch that need no parameters.
    accumulate: into how many microbatches the batch is cut. Their losses are
      summed and divided once, so that each image weighs as much as in one
      batch; each draws its own dropout.
    ema: decay of the moving average of the parameters, if one is kept. In step
      t it is (1 + t) / (10 + t) where that is less, so that the average forgets
      the initial parameters soon (as TensorFlow's ExponentialMovingAverage with
      num_updates).

  Returns:
    The new state, and `metrics` with this step's sums and counts added.
  """
  run_key = jax.random.wrap_key_data(state.key)
  key = stream(run_key, "dropout", state.step)
  if augment is not None:
    batch = augment(stream(run_key, "augment", state.step), batch)

  gradients, measured = mean_gradients(
    measure, state.params, batch, key, images=images, accumulate=accumulate
  )
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  norm = optax.tree.norm(gradients)
  measured = {**measured, "gradient_norm": Metric(norm, jnp.ones(()))}
  measured |= beside or {}
  params = optax.apply_updates(state.params, updates)
  if "norms" in metrics:
    measured["norms"] = norms.measure(gradients, updates, state.params)
  new = TrainState(
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    key=state.key,
    finite=state.finite.after(
      state.step,
      loss=measured["loss"].compute(),
      gradient_norm=norm,
      update_norm=optax.tree.norm(updates),
    ),
    ema=None if ema is None else averaged(state, params, ema),
  )
  return new, {name: metrics[name] + measured[name] for name in metrics}


def mean_gradients(
  measure: Measure, params, batch, key, *, images=None, accumulate: int = 1
):
  """Gradients of the loss, and the batch's metrics; arguments as for
  `train_step`. Where devices share the batch or the parameters, the compiler
  sums over them."""
  if accumulate > 1:
    gradients, measured = summed_gradients(
      measure, params, batch, key, accumulate
    )
    count = measured["loss"].count if images is None else images
    return divided(gradients, count), measured

  def loss(params):
    measured = measure(params, batch, dropout_key=key)
    value = measured["loss"]
    mean = value.compute() if images is None else value.total / images
    return mean, measured

  return jax.grad(loss, has_aux=True)(params)


def divided(gradients, count):
  """Of a summed loss, by the number of its images, or by 1 where there are
  none."""
  return jax.tree.map(lambda x: x / jnp.maximum(count, 1e-30), gradients)


def summed_gradients(measure: Measure, params, batch, key, accumulate: int):
  """Gradients of the loss's sum, and the batch's metrics, each summed over
  microbatches one after another."""

  def loss(params, batch, key):
    measured = measure(params, batch, dropout_key=key)
    return measured["loss"].total, measured

  gradient = functools.partial(jax.grad(loss, has_aux=True), params)
  if accumulate == 1:
    return gradient(batch, key)

  def cut(x):
    # Every n-th row: rows next to each other lie on one device, which so keeps
    # its own.
    x = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0)

  def one(sums, numbered):
    i, part = numbered
    found = gradient(part, jax.random.fold_in(key, i))
    return jax.tree.map(jnp.add, sums, found), None

  parts = jax.tree.map(cut, batch)
  first = jax.tree.map(lambda x: x[0], parts)
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(gradient, first, key),
  )
  return jax.lax.scan(one, zero, (jnp.arange(accumulate), parts))[0]
