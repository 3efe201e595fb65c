"""What a model answered to each image, and what follows from that."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

# Of the calibration error, as is usual (arXiv:1706.04599).
BINS = 15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
  """One model's answers at one patch size.

  On devices `[b, e]`, one for each image slot; gathered on the host by
  `gather`, `[n]`, one for each image.

  Attributes:
    index: i32, of the image in its source; -1 where there is none.
    label: i32, the right class; of several the one that comes first.
    predicted: i32, the class of the highest logit.
    confidence: f32, its probability.
    loss: f32.
    rank: i32, classes that come before the label; 0 where it comes first.
      An image without a label has -1 and the number of classes.
  """

  index: jax.Array | np.ndarray
  label: jax.Array | np.ndarray
  predicted: jax.Array | np.ndarray
  confidence: jax.Array | np.ndarray
  loss: jax.Array | np.ndarray
  rank: jax.Array | np.ndarray

  def __len__(self) -> int:
    return len(self.index)

  def top(self, k: int) -> float:
    """Share of images whose label is among the k highest logits."""
    return float(np.mean(self.rank < k))

  @property
  def mean_loss(self) -> float:
    return float(np.mean(self.loss, dtype=np.float64))

  @property
  def calibration_error(self) -> float:
    """Expected calibration error with `BINS` bins of equal width
    (arXiv:1706.04599, equation 3): the mean over images of the distance
    between confidence and accuracy in the bin of the image."""
    confidence = np.asarray(self.confidence, np.float64)
    right = np.asarray(self.rank == 0, np.float64)
    # Bins are open on their left, so 0 alone would have none.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(self))


def answer(
  logits: jax.Array,
  probabilities: jax.Array,
  loss: jax.Array,
  labels: jax.Array,
  index: jax.Array,
) -> Answers:
  """Answers of a batch, on its devices.

  Args:
    logits, probabilities: `[b, e, c]`; of equal logits the first comes first.
    loss, index: `[b, e]`.
    labels: `[b, e]`, or `[b, e, k]` where an image may have several: -1 for
      none.
  """
  if labels.ndim == 2:
    label, first = labels, rank(logits, labels)
  else:
    n = logits.shape[-1]
    ranks = [
      jnp.where(x < 0, n, rank(logits, x)) for x in jnp.moveaxis(labels, -1, 0)
    ]
    ranks = jnp.stack(ranks, axis=-1)
    best = ranks.argmin(axis=-1, keepdims=True)
    label = jnp.take_along_axis(labels, best, axis=-1)[..., 0]
    first = ranks.min(axis=-1)
  return Answers(
    index=index,
    label=label,
    predicted=logits.argmax(axis=-1).astype(jnp.int32),
    confidence=probabilities.max(axis=-1).astype(jnp.float32),
    loss=loss.astype(jnp.float32),
    rank=first.astype(jnp.int32),
  )


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """How many classes come before each label, `[b, e]`."""
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  # Written so that NaN, which compares with nothing, comes last.
  before = (~(logits < own)).sum(axis=-1)
  classes = jnp.arange(logits.shape[-1]).reshape(1, 1, -1)
  after = ((logits == own) & (classes >= labels[..., None])).sum(axis=-1)
  return before - after


def gather(parts: list[Answers]) -> Answers:
  """Answers of batches, on the host, by index; slots without image are left
  out.

  Raises:
    ValueError: there is none.
  """
  if not parts:
    raise ValueError("there is no image to evaluate on")
  fields = {
    f.name: np.concatenate(
      [np.asarray(getattr(part, f.name)).ravel() for part in parts]
    )
    for f in dataclasses.fields(Answers)
  }
  real = np.flatnonzero(fields["index"] >= 0)
  if not real.size:
    raise ValueError("there is no image to evaluate on")
  order = real[np.argsort(fields["index"][real], kind="stable")]
  return Answers(**{name: x[order] for name, x in fields.items()})
