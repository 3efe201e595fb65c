"""`save`: a model for the place that serves it, in that place's format."""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from flexivit_jax.checkpoints import manifest, npz, safetensors, stored_arrays
from flexivit_jax.checkpoints.formats import (
  big_vision,
  hugging_face,
  infer,
  naflexvit,
  parameters,
  pix2struct,
  siglip2,
  timm,
)
from flexivit_jax.checkpoints.load import NOTE, WEIGHTS
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel
from flexivit_jax.nn import adaln


def save(model: LoadedModel | StoredModel, path, format: str) -> list[str]:
  """Writes a model; `load` reads it back exactly, whatever the format.

  Nothing is written over. All files have SHA-256 sums, in `sha256sum -c`'s
  format: FILE.npz.sha256, or manifest.sha256 in a directory.

  Args:
    path: big_vision: a file that ends in .npz; else a directory to be made.
    format: one of FORMATS.

  Returns:
    What the format's own programs will compute otherwise than the model,
    since the format cannot say it; [] if they compute the same.

  Raises:
    ValueError: the format has no place for the model, or the path is taken.
  """
  path = pathlib.Path(path)
  check_target(path, format)
  checkpoint = model.checkpoint() if isinstance(model, LoadedModel) else model
  adaln.refuse(checkpoint.model.conditioning, checkpoint.spec.path)
  return FORMATS[format](checkpoint, path)


def check_target(path: pathlib.Path, format: str) -> None:
  """Refuses what `save` could not write to, before anything is computed.

  Raises:
    ValueError: the path is taken or of another kind, or there is no such
      format.
  """
  if format not in FORMATS:
    raise ValueError(f"format {format!r}: give one of {', '.join(FORMATS)}")
  for taken in (path, path.with_name(f"{path.name}.sha256")):
    if taken.exists():
      raise ValueError(f"{taken} exists and is not written over: give another")
  is_file = path.suffix == ".npz"
  if is_file != (format == "big_vision"):
    kind = "a directory" if is_file else "a file that ends in .npz"
    raise ValueError(f"{path}: for the format {format} give {kind}")


def note_of(checkpoint: StoredModel) -> dict[str, Any]:
  """What the arrays cannot say, for our own reading."""
  spec = checkpoint.spec
  facts = infer.facts_of(checkpoint.model)
  if spec.patch_size is None:
    facts["any_patch_size"] = True
  else:
    facts["patch_size"] = list(spec.patch_size)
  if spec.trained_sizes:
    facts["trained_sizes"] = [list(size) for size in spec.trained_sizes]
  if spec.classes and checkpoint.model.num_classes:  # those of its head
    facts["classes"] = list(spec.classes)
  return facts


def _save_big_vision(checkpoint, path):
  model = checkpoint.model
  arrays = big_vision.from_ours(checkpoint.arrays, model)
  path.parent.mkdir(parents=True, exist_ok=True)
  npz.write(path, arrays, note_of(checkpoint), exclusive=True)
  return infer.differences(model, big_vision.CONVENTION)


def _save_timm(checkpoint, path):
  model, arrays = _unstacked(checkpoint)
  arrays = timm.from_ours(arrays, model)
  config = timm.config(model, checkpoint.spec.classes)
  _save_tensors(checkpoint, path, arrays, {"config.json": config})
  return infer.differences(model, {"eps": timm.CONVENTION["eps"]})


def _save_naflexvit(checkpoint, path):
  model, arrays = _unstacked(checkpoint)
  arrays = naflexvit.from_ours(arrays, model)
  config = naflexvit.config(model, checkpoint.spec.classes)
  _save_tensors(checkpoint, path, arrays, {"config.json": config})
  return infer.differences(model, {"eps": naflexvit.CONVENTION["eps"]})


def _save_hugging_face(checkpoint, path, format_=hugging_face):
  model, arrays = _unstacked(checkpoint)
  arrays = format_.from_ours(arrays, model)
  beside = {
    "config.json": format_.config(model, checkpoint.spec.classes),
    "preprocessor_config.json": format_.preprocessor_config(model),
  }
  _save_tensors(checkpoint, path, arrays, beside)
  return []


def _save_orbax(checkpoint, path):
  def write(directory):
    stored_arrays.save_model(directory, checkpoint.arrays, note_of(checkpoint))

  manifest.make_directory(path, write)
  return []


# Name to what writes it.
FORMATS: Mapping[str, Callable[[StoredModel, pathlib.Path], list[str]]] = {
  "big_vision": _save_big_vision,
  "timm": _save_timm,
  "naflexvit": _save_naflexvit,
  "hugging_face": _save_hugging_face,
  "siglip2": functools.partial(_save_hugging_face, format_=siglip2),
  "pix2struct": functools.partial(_save_hugging_face, format_=pix2struct),
  "orbax": _save_orbax,
}


def _unstacked(checkpoint):
  """The model and arrays with a name of its own for each layer."""
  model, arrays = checkpoint.model, checkpoint.arrays
  if not model.scan:
    return model, arrays
  arrays = parameters.unstack(arrays, model.size.depth)
  return model.clone(scan=False), arrays


def _save_tensors(checkpoint, path, arrays, beside: Mapping[str, dict]):
  def write(directory):
    # torch's own readers look for the format.
    metadata = {"format": "pt", NOTE: json.dumps(note_of(checkpoint))}
    safetensors.write(directory / WEIGHTS, arrays, metadata)
    for name, content in beside.items():
      (directory / name).write_text(json.dumps(content, indent=2) + "\n")

  manifest.make_directory(path, write)
