"""Training state: parameters, optimiser state, latched finite flag."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import optax


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
    ema: moving average of the parameters; None: it is not kept.
  """

  step: jax.Array
  params: dict
  opt_state: optax.OptState
  key: jax.Array
  finite: Finite
  ema: dict | None = None

  @property
  def evaluated(self) -> dict:
    """The parameters to evaluate: their average, where it is kept."""
    return self.params if self.ema is None else self.ema


def init_state(
  params, tx: optax.GradientTransformation, seed: int, *, ema: bool = False
):
  """The state before the first step.

  Args:
    ema: whether to keep a moving average of the parameters.
  """
  key = jax.random.key_data(jax.random.key(seed))
  # Arrays of their own: the state is donated, and no buffer twice.
  numbers = [jnp.zeros((), jnp.float32) for _ in range(3)]
  finite = Finite(jnp.ones((), bool), jnp.zeros((), jnp.int32), *numbers)
  step = jnp.zeros((), jnp.int32)
  average = jax.tree.map(jnp.copy, params) if ema else None
  return TrainState(step, params, tx.init(params), key, finite, average)


def stream(key: jax.Array, name: str, step) -> jax.Array:
  """A key for one consumer at one step: a new consumer changes no old draw."""
  return jax.random.fold_in(
    jax.random.fold_in(key, zlib.crc32(name.encode())), step
  )


def averaged(state: TrainState, params, decay: float):
  t = state.step.astype(jnp.float32)
  rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
  # Written so that the average of a constant is that constant.
  return jax.tree.map(
    lambda old, new: old + (rate * (new - old)).astype(old.dtype),
    state.ema,
    params,
  )
