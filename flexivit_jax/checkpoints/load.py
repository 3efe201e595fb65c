"""`load`: any checkpoint that is known here, as a model ready to call."""

import json
import pathlib
import re
from typing import Any

from flexivit_jax.checkpoints import (
  download,
  manifest,
  npz,
  published,
  run_directory,
  run_model,
  safetensors,
  stored_arrays,
)
from flexivit_jax.checkpoints.formats import (
  big_vision,
  hugging_face,
  infer,
  naflexvit,
  parameters,
  pix2struct,
  siglip2,
  timm,
  timm_arguments,
)
from flexivit_jax.checkpoints.formats.metadata import MEANINGS, Facts
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core.sizes import as_hw
from flexivit_jax.core.text import cut, listed, show

MODEL = "flexivit_jax model"
WEIGHTS = "model.safetensors"
# Beside the arrays of a file that was written here: what they cannot say.
NOTE = "flexivit_jax"

# What the report calls the sources of facts.
GIVEN, NOTED = "given", "the file's note"


# Formats of safetensors files; the key of a config.json that is for one; what
# reads the facts in it and in the files beside it.
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TENSORS = (
  (timm, "architecture", {CONFIG: timm_arguments.facts_in}),
  (naflexvit, "architecture", {CONFIG: naflexvit.facts_in}),
  *(
    (
      format_,
      "model_type",
      {CONFIG: format_.facts_in, PREPROCESSOR: format_.preprocessing_in},
    )
    for format_ in (hugging_face, siglip2, pix2struct)
  ),
)


def load(
  path, *, step: int | None = None, ema: bool = True, **given
) -> LoadedModel:
  """Loads a checkpoint as a model.

  Args:
    path: a run's directory; a directory or file that `save` or the command
      convert wrote; a big_vision `.npz`, with `:img`, say, for one of several
      models in it; the `.safetensors` of a ViT or NaFlexVit of timm, or of
      Hugging Face's ViT, SigLIP2 or Pix2Struct, or the directory that holds
      it with its config.json; or the name of a published checkpoint
      (`list_models`).
    step: of a run: which checkpoint. None: the best by validation, or the
      latest where there was no validation.
    ema: of a run that kept a moving average of its parameters: take that.
    given: what the file does not say, or says otherwise: num_heads, gelu
      ("tanh" or "exact"), eps, pool ("tok", "gap" or "map"), posemb ((rows,
      cols) of the position table), posemb_resize ("bilinear", for a NaFlexVit
      that resizes it otherwise), image_mean, image_std, patch_size. What is
      given here wins over the file.

  Raises:
    ValueError: nothing that can be loaded, not all of it, or more than a ViT
      has.
  """
  return on_device(read(path, step=step, ema=ema, **given))


def read(
  path, *, step: int | None = None, ema: bool = True, **given
) -> StoredModel:
  """As `load`, without moving it to a device: arrays of the stored type."""
  unknown = given.keys() - MEANINGS.keys()
  if unknown:
    raise TypeError(
      f"load has no argument {listed(sorted(unknown))}; it has path, step, "
      f"ema, {', '.join(MEANINGS)}"
    )
  given = {k: v for k, v in given.items() if v is not None}
  if "patch_size" in given:
    given["patch_size"] = as_hw(given["patch_size"])
  path, submodel, model = _locate(path)
  if path.is_dir():
    return _read_directory(path, step, ema, given)
  if step is not None:
    raise ValueError(f"{path}: only a run's directory has steps")
  checked = manifest.check_sum(path) is not None
  if path.suffix == ".npz":
    arrays, note = npz.read(path)
    arrays = big_vision.select(arrays, submodel, path)
    sources = [(GIVEN, given), (NOTED, note or {})]
    if model is not None:
      sources.append(("its name", _known(model, arrays, path)))
    place = f"{path}:{submodel}" if submodel else path
    return _checkpoint(big_vision, arrays, place, sources, checked)
  if path.suffix != ".safetensors" and not safetensors.may_be_meant(path):
    raise ValueError(
      f"{path} is no checkpoint of a kind that is known here: give a run's "
      "directory, an .npz of big_vision, a .safetensors file or directory of "
      "timm or Hugging Face, or the name of a published model"
    )
  return _read_tensors(path, path, given, checked)


def _locate(path) -> tuple[pathlib.Path, str, published.Published | None]:
  """The file or directory, which of its models, and which published one."""
  text = str(path)
  if pathlib.Path(path).exists():
    return pathlib.Path(path), "", None
  file, colon, submodel = text.rpartition(":")
  if colon and file.endswith(".npz") and pathlib.Path(file).exists():
    return pathlib.Path(file), submodel, None
  if re.fullmatch(r"\w+", text):
    try:
      model = published.find(text)
    except ValueError as e:
      raise ValueError(f"{path}: no such file or directory, and {e}") from e
    return download.fetch(text), "", model
  raise ValueError(f"{path}: no such file or directory")


def _known(model: published.Published, arrays, path) -> dict[str, Any]:
  """What is known of a published checkpoint besides its file.

  Raises:
    ValueError: what was put there by hand is another model.
  """
  count = sum(x.size for x in arrays.values())
  # Of some the pooling is not known before the file is read.
  if not 0.8 < count / model.parameters < 1.25:
    raise ValueError(
      f"{path} holds {count:,} numbers, and {model.name} has about "
      f"{model.parameters:,}: delete it, and the next call downloads it"
    )
  known = {"trained_sizes": [as_hw(size) for size in model.trained_sizes]}
  if model.patch_size is not None:
    known["patch_size"] = as_hw(model.patch_size)
  return known


def _read_directory(path, step, ema, given) -> StoredModel:
  if (path / run_directory.DIRECTORY).is_dir():
    return run_model.read(path, step, ema, given)
  if step is not None:
    raise ValueError(f"{path}: only a run's directory has steps")
  ours = (path / stored_arrays.MODEL).is_file()
  checked = ours or (path / manifest.NAME).is_file()
  damage = manifest.damage(path) if checked else None
  if damage:
    raise ValueError(
      f"{path} is damaged: {damage}; get it from its source, or delete "
      f"{manifest.NAME} if the change was meant"
    )
  if ours:
    file = path / stored_arrays.MODEL
    sources = ((GIVEN, given), (NOTED, _object(file.read_bytes(), str(file))))
    arrays = stored_arrays.load_model(path)
    return _checkpoint(None, arrays, path, sources, checked)
  if (path / WEIGHTS).is_file():
    return _read_tensors(path / WEIGHTS, path, given, checked)
  raise ValueError(
    f"{path}: no run (config.json and {run_directory.DIRECTORY}/), no model "
    f"({stored_arrays.MODEL}) and no {WEIGHTS} there; it holds "
    f"{listed(sorted(p.name for p in path.iterdir())) or 'nothing'}"
  )


def _read_tensors(file, path, given, checked) -> StoredModel:
  arrays, metadata = safetensors.read(file)
  note = _object(metadata.get(NOTE, "{}"), f"{file}: its note {NOTE!r}")
  sources = [(GIVEN, given)]
  for format_, key, readers in TENSORS:  # noqa: B007 (the first that matches)
    if format_.recognises(arrays):
      break
  else:
    raise ValueError(
      f"{file}: neither timm's nor Hugging Face's ViT; its {len(arrays)} "
      f"arrays have names such as {listed(sorted(arrays)[:3])}"
    )
  # One of another program is none of ours.
  if key in _beside(file, CONFIG):
    for name, facts_in in readers.items():
      sources.append((name, _understood(file, name, facts_in)))
  sources.append((NOTED, note))
  return _checkpoint(format_, arrays, path, sources, checked)


def _understood(file, name, facts_in) -> dict[str, Any]:
  """The facts in a JSON file, which may hold anything in any place."""
  try:
    return facts_in(_beside(file, name))
  except _WRONG_KIND as e:
    raise ValueError(
      f"{file}: the {name} beside it cannot be understood: {e}"
    ) from e


# What using a value as another kind of value raises.
_WRONG_KIND = (
  *(ValueError, TypeError, AttributeError),
  *(LookupError, ArithmeticError),
)


def _beside(file: pathlib.Path, name: str) -> dict[str, Any]:
  """A JSON object in the same directory; {} where there is none."""
  path = file.with_name(name)
  if not path.is_file():
    return {}
  return _object(path.read_bytes(), f"{path}, which says what {file.name} is,")


def _object(text: str | bytes, what: str) -> dict[str, Any]:
  try:
    value = json.loads(text)
    if isinstance(value, dict):
      return value
    reason = f"it holds {show(value)}"
  except (ValueError, RecursionError) as e:
    reason = cut(str(e), 100)
  raise ValueError(
    f"{what} is no JSON object ({reason}): get it from its source again"
  )


def _checkpoint(format_, arrays, path, sources, checked):
  """What a format's arrays and the facts beside them make.

  Args:
    format_: a module of `formats`; None: our own names.
    sources: of facts, the most trusted first.
  """
  facts = Facts(path, *sources)
  source = MODEL
  if format_ is not None:
    source = format_.NAME
    arrays = format_.to_ours(arrays, facts)
    # Trusted least, so what it says is assumed.
    facts.add(f"assumed, as usual in {format_.PROGRAM}", format_.CONVENTION)
  model = infer.model_of(arrays, facts)
  parameters.check(model, arrays, path)
  patch_size = facts.get("patch_size", None)
  classes = facts.get("classes", ())
  if len(classes) > model.num_classes:  # a head may be wider than the data
    raise ValueError(
      f"{path}: {len(classes)} names of classes ({facts.origins['classes']}), "
      f"but the head has {model.num_classes}"
    )
  spec = Spec(
    source=source,
    path=str(path),
    patch_size=patch_size,
    trained_sizes=facts.get("trained_sizes", ()),
    classes=classes,
    origins=facts.origins,
    left_out=facts.left_out,
    checked=checked,
  )
  return StoredModel(model, arrays, spec)
