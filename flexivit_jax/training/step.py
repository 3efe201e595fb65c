"""The training state and the pure step that advances it."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.means import Mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Finite:
  """Whether every step so far was finite; once it was not, it stays so.

  Attributes:
    flag: bool scalar.
    step: i32 scalar, number of the first step that was not; until then the
      number of the last step. Steps count from 0.
    loss, gradient_norm, update_norm: f32 scalars of that step.
  """

  flag: jax.Array
  step: jax.Array
  loss: jax.Array
  gradient_norm: jax.Array
  update_norm: jax.Array

  def after(self, step, *, loss, gradient_norm, update_norm) -> "Finite":
    """With one more step."""
    # The update too: the loss would tell of NaN parameters a step too late,
    # after a checkpoint of them.
    numbers = [
      x.astype(jnp.float32) for x in (loss, gradient_norm, update_norm)
    ]
    new = Finite(jnp.isfinite(jnp.stack(numbers)).all(), step, *numbers)
    return jax.tree.map(lambda a, b: jnp.where(self.flag, a, b), new, self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a step changes.

  Attributes:
    step: i32 scalar, steps done.
    params: the task's parameters.
    opt_state: optax's.
    key: u32 data of the run's random key; never changes, steps fold into it.
    finite: whether all of this can be trusted.
  """

  step: jax.Array
  params: dict
  opt_state: optax.OptState
  key: jax.Array
  finite: Finite


def init_state(params, tx: optax.GradientTransformation, seed: int):
  """The state before the first step."""
  key = jax.random.key_data(jax.random.key(seed))
  # Arrays of their own: the state is donated, and no buffer twice.
  numbers = [jnp.zeros((), jnp.float32) for _ in range(3)]
  finite = Finite(jnp.ones((), bool), jnp.zeros((), jnp.int32), *numbers)
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, tx.init(params), key, finite)


def stream(key: jax.Array, name: str, step) -> jax.Array:
  """A key for one consumer at one step: a new consumer changes no old draw."""
  return jax.random.fold_in(
    jax.random.fold_in(key, zlib.crc32(name.encode())), step
  )


# (params, batch, dropout_key) -> metrics, among them "loss".
Measure = Callable[..., dict[str, Mean]]
# (key, batch) -> batch, what is drawn on the devices for each step.
Augment = Callable[..., Any]


def zero_metrics(names) -> dict[str, Mean]:
  """What `train_step` adds to, for metrics of these names."""
  return {name: Mean.zero() for name in (*names, "gradient_norm")}


def train_step(
  state: TrainState,
  metrics: dict[str, Mean],
  batch,
  *,
  measure: Measure,
  tx: optax.GradientTransformation,
  images: float | None = None,
  augment: Augment | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
  """One step down the gradient of the batch's loss.

  Args:
    augment: changes the batch before it is measured; None: as it is.
    images: what the summed loss is divided by; None: the batch's own number of
      images, the mean. Where that varies, a constant makes every image weigh
      the same instead of every step.

  Returns:
    The new state, and `metrics` with this step's sums and counts added.
  """
  run_key = jax.random.wrap_key_data(state.key)
  key = stream(run_key, "dropout", state.step)
  if augment is not None:
    batch = augment(stream(run_key, "augment", state.step), batch)

  def loss(params):
    measured = measure(params, batch, dropout_key=key)
    value = measured["loss"]
    if images is None:
      return value.compute(), measured
    return value.total / images, measured

  gradients, measured = jax.grad(loss, has_aux=True)(state.params)
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  norm = optax.tree.norm(gradients)
  measured = {**measured, "gradient_norm": Mean(norm, jnp.ones(()))}
  new = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
    key=state.key,
    finite=state.finite.after(
      state.step,
      loss=measured["loss"].compute(),
      gradient_norm=norm,
      update_norm=optax.tree.norm(updates),
    ),
  )
  return new, {name: metrics[name] + measured[name] for name in metrics}
