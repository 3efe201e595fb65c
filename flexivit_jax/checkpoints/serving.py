"""`load`: an exported model, ready to call without the code of the model.

`flexivit_jax.exporting.export`, or python -m flexivit_jax export, makes the
directory:

  serving.json           what goes in and comes out, and where it came from
  weights.safetensors    "shared/NAME", and "patch_16x16/NAME" for each size
  patch_16x16.jax_export for each patch size a program of jax.export
  manifest.sha256

jax, flatbuffers and safetensors are enough to use it, without this package:

  import pathlib
  import jax.export
  from safetensors.numpy import load_file

  path, size = pathlib.Path("OUT"), "patch_16x16"
  program = (path / f"{size}.jax_export").read_bytes()
  run = jax.jit(jax.export.deserialize(bytearray(program)).call)
  arrays = jax.device_put(load_file(path / "weights.safetensors"))
  shared, own = (
    {k.removeprefix(p): x for k, x in arrays.items() if k.startswith(p)}
    for p in ("shared/", f"{size}/")
  )
  outputs = run(shared, own, images)  # uint8 [b, h, w, c]

A program is code that is run: use only those that you trust. JAX reads what a
JAX of up to six months before wrote.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from flexivit_jax.checkpoints import manifest, safetensors
from flexivit_jax.core.sizes import as_hw
from flexivit_jax.core.text import cut, listed

CONTRACT = "serving.json"
WEIGHTS = "weights.safetensors"
SHARED = "shared"

_AGAIN = "export it again (python -m flexivit_jax export)"


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
  """Programs with their weights. Call it; print it to see what it serves.

  Attributes:
    path: the directory.
    contract: its serving.json.
    programs: (height, width) of a patch to a function of checked images.
  """

  path: pathlib.Path
  contract: Mapping[str, Any]
  programs: Mapping[tuple[int, int], Callable[..., dict[str, jax.Array]]]

  def __call__(self, images, patch_size=None) -> dict[str, jax.Array]:
    """Runs a program; it is compiled once for each patch size and b.

    Args:
      images: u8 `[b, h, w, c]` in [0, 255], of the size that was exported and
        with any b from 1.
      patch_size: pixels, or (height, width); may be left out where there is
        one only.

    Returns:
      "features", f32 `[b, d]`, and with a head "logits", f32 `[b, classes]`.

    Raises:
      ValueError: the images or the patch size are not what was exported.
    """
    program = self._program(patch_size)
    if not isinstance(images, jax.Array):
      images = np.asarray(images)
    self._check(images)
    return program(images)

  def _program(self, patch_size):
    sizes = _listed_hw(self.programs)
    if patch_size is None:
      if len(self.programs) > 1:
        raise ValueError(f"{self.path} has several patch sizes: give {sizes}")
      return next(iter(self.programs.values()))
    h, w = as_hw(patch_size)
    if (h, w) not in self.programs:
      raise ValueError(
        f"{self.path} has no patch size {h}x{w}: give {sizes}, or {_AGAIN}"
      )
    return self.programs[h, w]

  def _check(self, images):
    _, h, w, c = self.contract["input"]["shape"]
    if images.ndim != 4 or images.shape[3] != c or not len(images):
      hint = ", a batch: images[None]" if images.shape == (h, w, c) else ""
      raise ValueError(
        f"images have shape {images.shape}: give [b, {h}, {w}, {c}]{hint}"
      )
    if images.shape[1:3] != (h, w):
      size = "x".join(map(str, images.shape[1:3]))
      raise ValueError(
        f"images of {size} pixels: resize them to {h}x{w}, which {self.path} "
        f"was exported for, or {_AGAIN}"
      )
    if images.dtype != np.uint8:
      raise ValueError(
        f"images are {images.dtype}: give uint8, 0 to 255; the program itself "
        "normalises them"
      )

  def __repr__(self):
    contract = self.contract
    outputs = ", ".join(
      f"{name} {_shape(x)}" for name, x in contract["outputs"].items()
    )
    return "\n".join(
      (
        f"exported model: {self.path}",
        f"  images {_shape(contract['input'])}",
        f"  patch sizes {_listed_hw(self.programs)}",
        f"  gives {outputs}",
        f"  for {', '.join(contract['platforms'])}, exported by jax "
        f"{contract['jax']}",
        *contract["model"],
      )
    )


def load(directory) -> Served:
  """Reads an exported model and puts its weights on the device.

  Raises:
    ValueError: it is none, or damaged, or not for this platform or this jax.
  """
  path = pathlib.Path(directory)
  if not (path / CONTRACT).is_file():
    raise ValueError(
      f"{path} has no {CONTRACT}: give a directory that python -m "
      "flexivit export made"
    )
  if damage := manifest.damage(path):
    raise ValueError(f"{path} is damaged: {damage}; copy it anew, or {_AGAIN}")
  contract = json.loads((path / CONTRACT).read_bytes())
  platform, platforms = export.default_export_platform(), contract["platforms"]
  if platform not in platforms:
    raise ValueError(
      f"{path} was exported for {', '.join(platforms)}, and jax runs on "
      f"{platform} here: {_AGAIN} with --platforms "
      f"{','.join((*platforms, platform))}"
    )
  sizes = [tuple(hw) for hw in contract["patch_sizes"]]
  # Before the weights: they take longer.
  calls = {hw: _deserialize(path, hw, contract) for hw in sizes}
  arrays, _ = safetensors.read(path / WEIGHTS)
  shared = _part(arrays, SHARED)
  programs = {
    hw: functools.partial(call, shared, _part(arrays, part_name(hw)))
    for hw, call in calls.items()
  }
  return Served(path, contract, programs)


def part_name(patch_hw: tuple[int, int]) -> str:
  """Of a patch size's program and of its own arrays: "patch_16x16"."""
  h, w = patch_hw
  return f"patch_{h}x{w}"


def _deserialize(path, patch_hw, contract):
  """The program as a function of (shared, its own arrays, images)."""
  file = path / f"{part_name(patch_hw)}.jax_export"
  try:
    program = export.deserialize(bytearray(file.read_bytes()))
    version = program.calling_convention_version
    low = export.minimum_supported_calling_convention_version
    high = export.maximum_supported_calling_convention_version
    if not low <= version <= high:
      raise ValueError(f"calling convention {version}, not {low} to {high}")
    # What JAX would otherwise do at the first call only.
    program.mlir_module()
  except ImportError:  # of flatbuffers, which it says
    raise
  # The readers below JAX let many kinds of exception through.
  except Exception as e:
    raise ValueError(
      f"{file}: jax {jax.__version__} cannot read what jax {contract['jax']} "
      f"wrote ({cut(' '.join(str(e).split()), 200)}): use jax "
      f"{contract['jax']} or one of the six months after it, or {_AGAIN} with "
      f"jax {jax.__version__}"
    ) from e
  return jax.jit(program.call)


def _part(arrays, part):
  """Takes a part's arrays, which go to the device one by one."""
  prefix = f"{part}/"
  found = [key for key in arrays if key.startswith(prefix)]
  return {
    key.removeprefix(prefix): jax.device_put(arrays.pop(key)) for key in found
  }


def _shape(described):
  return f"[{', '.join(map(str, described['shape']))}] {described['dtype']}"


def _listed_hw(sizes):
  return listed(f"{h}x{w}" for h, w in sizes)
