import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.export
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints import (
  export,
  load,
  manifest,
  serving,
)
from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.checkpoints.parity import photographs
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling
from flexivit_jax.nn.encoder import Size
from flexivit_jax.nn.positions import (
  learned_grid,
  relative,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.positions import position as position_lib

DATA = pathlib.Path(__file__).parents[1] / "data"
IMAGE_HW = (96, 144)
PATCH_SIZES = (8, 16, (48, 24))
PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
  """A FlexiViT with a class token, stored at 32x32 with 7x7 positions."""
  path = tmp_path_factory.mktemp("npz") / "flexivit.npz"
  golden = np.load(DATA / "big_vision_flexivit_tok.npz")
  np.savez(path, **{k: x for k, x in golden.items() if k.startswith("params/")})
  return load.load(path)


@pytest.fixture(scope="module")
def directory(vit, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "flexivit"
  export.export(
    vit, path, patch_sizes=PATCH_SIZES, image_hw=IMAGE_HW, platforms=PLATFORMS
  )
  return path


@pytest.fixture(scope="module")
def served(directory):
  return serving.load(directory)


@pytest.fixture(scope="module")
def images():
  """Five real images."""
  both = photographs(IMAGE_HW, 3)
  return np.concatenate([both, both[:, ::-1], both[:1, :, ::-1]])


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_one_artefact_computes_what_the_model_does_for_any_batch(
  served, vit, images, patch_size
):
  for b in (1, 2, 5):
    expected = vit.outputs(images[:b], patch_size)
    got = served(images[:b], patch_size)
    # Float32 rounding of values up to 4: the resized kernel was rounded once
    # from float64, and positions were not interpolated but read. A kernel that
    # is resized otherwise is off by a thousand times that, see
    # tests/cli/test_export.py.
    for name, key in (("features", "pooled"), ("logits", "logits")):
      np.testing.assert_allclose(got[name], expected[key], rtol=0, atol=1e-5)
    assert np.abs(expected["logits"]).max() > 0.5
  # The sizes are no renaming of each other.
  others = [served(images, size)["logits"] for size in PATCH_SIZES]
  assert all(
    np.abs(a - b).max() > 0.1 for i, a in enumerate(others) for b in others[:i]
  )


MODELS = {
  "class token, registers, LayerScale": dict(
    pool=pooling.ClassToken(), registers=3, layer_scale=0.1
  ),
  "attention pooling": dict(pool=pooling.Map(), qk_norm=True, exact_gelu=True),
  "rows and columns": dict(position=row_column.RowColumn((3, 9), "product")),
  "rotary": dict(position=rotary.Rotary(), pool=pooling.ClassToken()),
  "relative": dict(position=relative.Relative((3, 9)), scan=True),
  "norm after pooling, no head": dict(norm_after_pool=True, num_classes=0),
  "five channels": dict(channels=5),
  "bfloat16, scanned": dict(
    dtype="bfloat16", scan=True, pool=pooling.Map(), registers=1
  ),
}


def _random_vit(**fields) -> LoadedModel:
  """With weights that all matter: fresh ones are 0 or 1 in many places."""
  options = dict(
    size=Size(32, 2, 64, 2),
    position=learned_grid.LearnedGrid((3, 4)),
    pool=pooling.Gap(),
    kernel_hw=(32, 32),
    num_classes=4,
  )
  model = ViT(**options | fields)
  one = np.zeros((1, 32, 32, model.channels), np.uint8)
  params = model.init(jax.random.key(0), patchify(one, (32, 32)))["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + 0.2 * rng.standard_normal(x.shape, np.float32), params
  )
  return LoadedModel(model, params, Spec("random", "nowhere"))


# The others differ in the model alone.
SERVED_FAST = ("rows and columns",)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in SERVED_FAST))
    for name in MODELS
  ],
)
def test_every_kind_of_model_is_served(name, tmp_path):
  vit = _random_vit(**MODELS[name])
  export.export(vit, tmp_path / "out", patch_sizes=[(12, 6)], image_hw=(24, 48))
  images = photographs((24, 48), vit.model.channels)
  got = serving.load(tmp_path / "out")(images)
  expected = vit.outputs(images, (12, 6))
  expected["features"] = expected.pop("pooled")
  assert got.keys() == expected.keys() - {"encoded"}
  # Rounding of values of order 1 to 10; bfloat16 has 8 bits.
  tolerance = 0.1 if vit.model.dtype == "bfloat16" else 5e-5
  for output, x in got.items():
    other = np.asarray(expected[output], np.float32)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, other, rtol=0, atol=tolerance)
    # Outputs that do not depend on the image would agree as well.
    assert np.abs(other[0] - other[1]).max() > 5 * tolerance


@pytest.fixture
def compiled():
  """The names of the functions that were compiled since."""
  names = []

  def listen(event, duration, **about):
    del duration
    if event == "/jax/core/compile/backend_compile_duration":
      names.append(about["fun_name"])

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_is_traced_and_each_batch_size_is_compiled_once(
  directory, images, monkeypatch, compiled
):
  def fail(*args, **kwargs):
    raise AssertionError("the model's code ran")

  monkeypatch.setattr(ViT, "__call__", fail)
  served = serving.load(directory)
  assert compiled == []
  for b in (1, 2, 1, 5, 2, 5, 1):
    served(images[:b], 8)
  assert len(compiled) == 3
  on_device = jax.device_put(images[:2])
  for batch in (on_device, images[:2], images[3:], on_device):
    served(batch, (48, 24))
  assert len(compiled) == 4


def _program(directory, size):
  file = directory / f"{size}.jax_export"
  return jax.export.deserialize(bytearray(file.read_bytes()))


@pytest.mark.parametrize(
  "position", [learned_grid.LearnedGrid((3, 4)), waves.SinCos2D()]
)
def test_no_call_computes_positions_or_resizes_the_kernel(position, tmp_path):
  # With the stored kernel, without positions, there is nothing to compute.
  least = _random_vit(position=position_lib.NoPosition(), kernel_hw=(8, 8))
  vit = _random_vit(position=position)
  counts = []
  for name, exported in (("least", least), ("vit", vit)):
    path = tmp_path / name
    export.export(exported, path, patch_sizes=[8], image_hw=(24, 48))
    text = _program(path, "patch_8x8").mlir_module()
    counts.append((text.count("dot_general"), text.count("stablehlo.sine")))
  assert counts[0] == counts[1]
  # The model itself does compute them.
  one = np.zeros((1, 24, 48, 3), np.uint8)
  text = vit._apply.lower(vit.params, one, patch_hw=(8, 8)).as_text()
  if isinstance(position, waves.SinCos2D):
    assert text.count("stablehlo.sine") > 0 == counts[1][1]
  else:
    plain = least._apply.lower(least.params, one, patch_hw=(8, 8)).as_text()
    # Two products for the kernel, two for the positions.
    assert text.count("dot_general") == plain.count("dot_general") + 4


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_what_does_not_run_here_is_exported_here_and_refused(
  platform, vit, tmp_path
):
  path = tmp_path / "out"
  export.export(
    vit, path, patch_sizes=[24], image_hw=IMAGE_HW, platforms=[platform]
  )
  assert _program(path, "patch_24x24").platforms == (platform,)
  with pytest.raises(ValueError) as caught:
    serving.load(path)
  assert str(caught.value) == (
    f"{path} was exported for {platform}, and jax runs on cpu here: export it "
    "again (python -m flexivit_jax export) with --platforms "
    f"{platform},cpu"
  )


def test_printing_says_what_is_served(served, directory, vit):
  assert str(served).splitlines() == [
    f"exported model: {directory}",
    "  images [b, 96, 144, 3] uint8",
    "  patch sizes 8x8, 16x16, 48x24",
    "  gives features [b, 48] float32, logits [b, 10] float32",
    f"  for cpu, cuda, tpu, exported by jax {jax.__version__}",
    *str(vit).splitlines(),
  ]


def test_the_contract_is_for_any_program(tmp_path):
  vit = _random_vit()
  spec = dataclasses.replace(vit.spec, classes=("a", "b", "c", "d"))
  export.export(
    dataclasses.replace(vit, spec=spec),
    tmp_path / "out",
    patch_sizes=[8, (12, 6), (8, 8)],
    image_hw=(24, 48),
  )
  contract = json.loads((tmp_path / "out" / "serving.json").read_text())
  assert contract == {
    "input": {"shape": ["b", 24, 48, 3], "dtype": "uint8"},
    "outputs": {
      "features": {"shape": ["b", 32], "dtype": "float32"},
      "logits": {"shape": ["b", 4], "dtype": "float32"},
    },
    "patch_sizes": [[8, 8], [12, 6]],
    "classes": ["a", "b", "c", "d"],
    "platforms": ["cpu"],
    "jax": jax.__version__,
    "calling_convention": (
      jax.export.maximum_supported_calling_convention_version
    ),
    "model": str(vit).splitlines(),
  }


def test_more_patches_than_positions_are_not_exported(tmp_path):
  vit = _random_vit(position=relative.Relative((3, 3)))
  with pytest.raises(ValueError, match="3x6 patches are more than the 3x3"):
    export.export(vit, tmp_path / "out", patch_sizes=[8], image_hw=(24, 48))
  assert list(tmp_path.iterdir()) == []


_GOOD = np.zeros((2, *IMAGE_HW, 3), np.uint8)
_AGAIN = "export it again (python -m flexivit_jax export)"


@pytest.mark.parametrize(
  ("images", "patch_size", "message"),
  [
    (
      _GOOD.astype(np.float32),
      8,
      "images are float32: give uint8, 0 to 255; the program itself normalises "
      "them",
    ),
    (
      _GOOD[0],
      8,
      "images have shape (96, 144, 3): give [b, 96, 144, 3], a batch: "
      "images[None]",
    ),
    (
      _GOOD[..., :1],
      8,
      "images have shape (2, 96, 144, 1): give [b, 96, 144, 3]",
    ),
    (
      _GOOD.swapaxes(1, 2),
      8,
      "images of 144x96 pixels: resize them to 96x144, which PATH was exported "
      f"for, or {_AGAIN}",
    ),
    (
      _GOOD,
      12,
      f"PATH has no patch size 12x12: give 8x8, 16x16, 48x24, or {_AGAIN}",
    ),
    (_GOOD, None, "PATH has several patch sizes: give 8x8, 16x16, 48x24"),
  ],
)
def test_what_was_not_exported_is_refused(served, images, patch_size, message):
  with pytest.raises(ValueError) as caught:
    served(images, patch_size)
  assert str(caught.value) == message.replace("PATH", str(served.path))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      dict(patch_sizes=[8, 7]),
      "an image of 96x144 pixels is not a whole number of 7x7 patches: resize "
      "it to 98x147, or take a patch size whose sides divide 96 and 144",
    ),
    (dict(patch_sizes=[]), "patch_sizes is empty: give at least one"),
    (
      dict(platforms=["cpu", "gpu"]),
      "platforms cpu, gpu: give some of cpu, cuda, rocm, tpu",
    ),
  ],
)
def test_what_cannot_be_exported_is_refused(vit, tmp_path, arguments, message):
  wanted = dict(patch_sizes=[8], image_hw=IMAGE_HW) | arguments
  with pytest.raises(ValueError) as caught:
    export.export(vit, tmp_path / "out", **wanted)
  assert str(caught.value) == message
  assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copy(directory, tmp_path):
  return pathlib.Path(shutil.copytree(directory, tmp_path / "copy"))


@pytest.mark.parametrize(
  "name", ["weights.safetensors", "patch_16x16.jax_export", "serving.json"]
)
def test_one_flipped_bit_is_noticed(copy, name):
  file = copy / name
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    serving.load(copy)
  start = f"{copy} is damaged: {file} has changed: SHA-256 "
  assert str(caught.value).startswith(start)
  assert str(caught.value).endswith(f"...; copy it anew, or {_AGAIN}")
  assert "\n" not in str(caught.value)


def _of_another_convention(content):
  program = jax.export.deserialize(bytearray(content))
  return dataclasses.replace(program, calling_convention_version=99).serialize()


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (_of_another_convention, "calling convention 99, not 9 to 10"),
    (lambda content: content[: len(content) // 2], "unpack_from requires"),
  ],
)
def test_a_program_that_this_jax_cannot_read_is_refused(copy, change, reason):
  file = copy / "patch_16x16.jax_export"
  content = change(file.read_bytes())
  assert content != file.read_bytes()
  file.write_bytes(content)
  manifest.write(copy)
  here = jax.__version__
  with pytest.raises(ValueError, match=reason) as caught:
    serving.load(copy)
  text = str(caught.value)
  assert text.startswith(f"{file}: jax {here} cannot read what jax {here} wrot")
  assert text.endswith(
    f"): use jax {here} or one of the six months after it, or {_AGAIN} with "
    f"jax {here}"
  )
  assert "\n" not in text


# In a process of its own, where what is not needed cannot be imported.
LONELY = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in MISSING:
      raise ModuleNotFoundError(name)

MISSING = {missing}
sys.meta_path.insert(0, Missing())
import numpy as np
images = np.load("images.npy")
{code}
np.save("logits.npy", outputs["logits"])
print(*sorted(m for m in sys.modules if m.startswith("flexivit_jax")))
print(*sorted({{m.partition(".")[0] for m in sys.modules}} & MISSING))
"""
# Our dependencies but jax's own, numpy, safetensors and flatbuffers.
MISSING = {
  *("flax", "optax", "orbax", "grain", "array_record", "ml_collections"),
  *("PIL", "matplotlib", "sklearn", "tqdm", "tensorflow_datasets", "absl"),
  *("chex", "tensorstore", "pandas", "etils"),
}


def _alone(code, missing, images, tmp_path):
  """Runs code that makes `outputs`: (logits, its printed lines)."""
  np.save(tmp_path / "images.npy", images)
  code = LONELY.format(missing=missing, code=code)
  done = subprocess.run(  # noqa: S603
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env={"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return np.load(tmp_path / "logits.npy"), done.stdout.splitlines()


def test_serving_needs_no_flax_and_no_code_of_the_model(
  directory, served, images, tmp_path
):
  code = (
    "from flexivit_jax.checkpoints import serving\n"
    f"outputs = serving.load({str(directory)!r})(images, (48, 24))"
  )
  logits, (ours, missing) = _alone(code, MISSING, images, tmp_path)
  # On one device instead of eight simulated ones, so with other threads.
  np.testing.assert_allclose(
    logits, served(images, (48, 24))["logits"], rtol=0, atol=1e-5
  )
  rooms = {name.split(".")[1] for name in ours.split() if "." in name}
  assert rooms == {"checkpoints", "core"}
  assert "flexivit_jax.checkpoints.load" not in ours.split()
  assert missing == ""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_lines_of_the_docstring_do_without_this_package(
  dtype, images, tmp_path
):
  vit, out = _random_vit(dtype=dtype), tmp_path / "OUT"
  export.export(vit, out, patch_sizes=[16, 24], image_hw=IMAGE_HW)
  _, lines = serving.__doc__.split("without this package:\n")
  lines = textwrap.dedent(lines.split("\nA program is code")[0])
  missing = MISSING | {"flexivit_jax"}
  logits, loaded = _alone(lines, missing, images, tmp_path)
  expected = serving.load(out)(images, 16)["logits"]
  # A step of bfloat16 of logits up to 16, for another number of threads.
  tolerance = 1e-5 if dtype == "float32" else 0.0625
  np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
  assert loaded == ["", ""]
