"""Classes and features of images, a batch at a time, in their order."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.data.loading.eval_loader import EvalLoader
from flexivit_jax.data.packing.eval_loader import PackEvalLoader
from flexivit_jax.devices import compilation, placement
from flexivit_jax.models.vit import ViT
from flexivit_jax.tasks import losses

# Losses, by what they make of logits.
PROBABILITIES: dict[str, losses.Loss] = {
  "softmax": losses.SoftmaxLoss(),
  "sigmoid": losses.SigmoidLoss(),
}


def probabilities_of(vit: LoadedModel) -> str | None:
  """One of PROBABILITIES, by the loss of a run; None: a file does not say."""
  run = vit.spec.experiment
  for name, loss in PROBABILITIES.items():
    if run is not None and isinstance(run.task.loss, type(loss)):
      return name
  return None


@dataclasses.dataclass(frozen=True)
class Wanted:
  """Outputs to compute.

  Attributes:
    probabilities: one of PROBABILITIES; None: no classes, for a model without
      a head.
    top_k: most classes of an image.
    features: whether pooled features are wanted.
    tokens: whether the features of each patch are.
  """

  probabilities: str | None
  top_k: int = 5
  features: bool = False
  tokens: bool = False


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Outputs for one image; None where not wanted.

  Attributes:
    index: of the image in its source.
    classes: i32 `[k]`, the most probable first.
    probabilities: f32 `[k]`.
    features: f32 `[d]`, pooled.
    tokens: f32 `[rows, cols, d]`, of each patch after the final norm.
  """

  index: int
  classes: np.ndarray | None = None
  probabilities: np.ndarray | None = None
  features: np.ndarray | None = None
  tokens: np.ndarray | None = None


def compile_forward(
  model: ViT,
  params,
  example: Batch,
  patch_hw: tuple[int, int],
  wanted: Wanted,
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None],
) -> Callable[[Any, Any], dict[str, jax.Array]]:
  """The one program of a prediction: (params, inputs) to arrays `[b, e, ...]`.

  Args:
    params: replicated over the mesh.
    example: of the batches that will come, all of one shape.
    report: called with one line.
  """
  packed = isinstance(example.inputs, Tokens)
  size = None if packed else patch_hw
  programs = compilation.compile_sizes(
    functools.partial(_forward, model, wanted),
    [size],
    arguments=(params, placement.shapes(example.inputs, mesh)),
    jit_options={
      "in_shardings": (placement.replicated(mesh), placement.over_rows(mesh)),
      "out_shardings": placement.over_rows(mesh),
    },
    report=report,
    what="prediction",
  )
  return programs[size]


def _forward(model, wanted, params, inputs, *, patch_hw):
  out = model.apply({"params": params}, to_tokens(inputs, patch_hw))
  results = {}
  if wanted.probabilities is not None:
    logits = out.logits.astype(jnp.float32)
    # Of the logits: probabilities near 1 may round to the same number.
    _, results["classes"] = jax.lax.top_k(
      logits, min(wanted.top_k, logits.shape[-1])
    )
    loss = PROBABILITIES[wanted.probabilities]
    results["probabilities"] = jnp.take_along_axis(
      loss.probabilities(logits), results["classes"], axis=-1
    )
  if wanted.features:
    results["features"] = out.pooled.astype(jnp.float32)
  if wanted.tokens:
    results["tokens"] = out.encoded.astype(jnp.float32)
  return results


def predict(
  forward: Callable[[Any, Any], dict[str, jax.Array]],
  params,
  loader: EvalLoader | PackEvalLoader,
  patch_hw: tuple[int, int],
  mesh: jax.sharding.Mesh,
  name: Callable[[int], str],
) -> Iterator[Prediction]:
  """One prediction for each image that could be decoded, by index.

  Holds few batches at once: packed images come a little out of order, and
  wait for those before them.

  Args:
    forward: by `compile_forward`.
    loader: with one view.
    name: of an image, for the error.

  Raises:
    Fault: what the model computes is no finite number.
  """
  waiting: dict[int, Prediction] = {}
  at = 0
  for _, batch in loader:
    inputs = placement.to_devices(batch.inputs, mesh)
    results = jax.device_get(forward(params, inputs))
    for each in _split(results, batch, patch_hw):
      _check(each, name)
      waiting[each.index] = each
    while at in waiting or at in loader.bad:
      if at in waiting:
        yield waiting.pop(at)
      at += 1


def _split(results, batch, patch_hw) -> Iterator[Prediction]:
  """A batch's images; what fills it up is left out."""
  for row, slot in zip(*np.nonzero(batch.index >= 0)):
    # Copies, so that an image that waits does not hold its batch.
    own = {
      key: x[row, slot].copy() for key, x in results.items() if key != "tokens"
    }
    if "tokens" in results:
      places, grid_hw = _places(batch.inputs, row, slot, patch_hw)
      own["tokens"] = results["tokens"][row, places].reshape(*grid_hw, -1)
    yield Prediction(int(batch.index[row, slot]), **own)


def _places(inputs, row, slot, patch_hw):
  """Where in its row an image's patches are, and their (rows, cols)."""
  if not isinstance(inputs, Tokens):
    h, w = inputs.shape[1:3]
    return slice(None), (h // patch_hw[0], w // patch_hw[1])
  (places,) = np.nonzero(inputs.segments[row] == slot + 1)
  return places, inputs.grid_hw[row, places[0]]


def _check(prediction, name):
  for field in ("probabilities", "features", "tokens"):
    values = getattr(prediction, field)
    if values is not None and not np.isfinite(values).all():
      raise Fault(
        f"{name(prediction.index)}: the model's {field} are not finite "
        "numbers: its weights are damaged, or too large for its precision"
      )
