"""Draws images from a model that learned by diffusion.

  flexivit sample --checkpoint runs/dit --output samples
  flexivit sample --checkpoint runs/dit --output samples \\
      --classes 0,1,2 --count 8 --steps 50 --guidance 2 --eta 0 --seed 0

Writes samples.png, a row for each class, and samples.npz: `images`, u8 (or what
the data is, of latents), `labels` and `classes`, the names.
samples.json says how they were made: docs/diffusion.md.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from flexivit_jax.checkpoints import atomic, load, provenance
from flexivit_jax.cli import arguments, checkpoint_arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw, size_name
from flexivit_jax.core.text import listed
from flexivit_jax.data.sources.arrays import Arrays
from flexivit_jax.devices import compilation, out_of_memory
from flexivit_jax.evaluation import contact_sheet, eval_transforms
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.tasks.diffusion import Diffusion, visible
from flexivit_jax.tasks.sampler import Sampler


def main(argv=None):
  parser = arguments.parser(__doc__, "sample")
  add = parser.add_argument
  checkpoint_arguments.add_run(parser)
  add("--classes", default="all", help="names, or numbers: 0,1,2; default: all")
  add("--count", type=int, default=8, help="images of each; default: 8")
  for name, kind, what in (
    ("steps", int, "of the sampler"),
    ("guidance", float, "1: none"),
    ("eta", float, "0: deterministic; 1: fresh noise at each step, as DDPM"),
  ):
    add(f"--{name}", type=kind, help=f"{what}; default: the run's")
  add("--seed", type=int, default=0, help="of the noise; default: 0")
  add("--patch_size", help="2 or 2x4; default: the run's, where it has one")
  add("--image_size", help="32 or 32x48; default: that of the training images")
  add("--batch_size", type=int, default=64, help="images at once; default: 64")
  add("--output", required=True, help="directory to write to")
  args, _ = arguments.parse(parser, argv)
  args.command = arguments.command("sample", argv)
  sample(args)


def sample(args) -> None:
  """Draw samples and write them.

  Raises:
    ConfigError: an argument cannot be used.
  """
  for name, low, high in (
    ("count", 1, 2**20),
    ("batch_size", 1, 2**20),
    ("seed", 0, 2**32 - 1),
  ):
    value = getattr(args, name)
    if not low <= value <= high:
      raise ConfigError(f"--{name} {value}: give {low} to {high}")
  output = arguments.output_directory(args)
  with config_errors_at("--checkpoint"):
    found = load.read(args.checkpoint, step=args.step, ema=args.ema)
  print(found, flush=True)
  run = found.spec.experiment
  if run is None or not isinstance(run.task, Diffusion):
    raise ConfigError(
      f"--checkpoint {args.checkpoint} learned no diffusion: give a run of "
      "configs/dit_digits.py, say"
    )
  sampler = choose_sampler(args, run.task)
  classes = choose_classes(args.classes, found.spec.classes, run.task)
  patch_hw = choose_patch_size(args.patch_size, found.spec)
  image_hw = choose_image_size(args.image_size, run)
  with config_errors_at("--patch_size"):
    check_patch_size(found.model, image_hw, patch_hw)
  output.mkdir(parents=True, exist_ok=True)

  compilation.enable_persistent_cache()
  labels = np.repeat(np.array(classes, np.int32), args.count)
  with out_of_memory.explaining_evaluation(args.batch_size, "--batch_size"):
    images = draw(
      run.task,
      found.model,
      unflatten_dict({**found.arrays, **found.own}, sep="/"),
      labels,
      args,
      image_hw=image_hw,
      patch_hw=patch_hw,
      sampler=sampler,
    )
  record = {
    "checkpoint": found.spec.path,
    "step": found.spec.step,
    "command": args.command,
    "images": len(images),
    "sampler": vars(sampler),
    "seed": args.seed,
    "patch_size": size_name(patch_hw),
    "provenance": provenance.describe(),
  }
  shown = np.asarray(visible(images))
  arrays = {"images": shown}
  rows = shown.reshape(len(classes), args.count, *shown.shape[1:])
  if isinstance(run.train.source, Arrays):
    arrays["images"] = images / run.train.source.scale
  if run.task.num_classes:
    arrays |= {"labels": labels, "classes": np.array(found.spec.classes)}
  write(output, rows, arrays, record)
  print(f"wrote {output / 'samples.png'} and samples.npz, {len(images)} images")


def write(output: pathlib.Path, rows: np.ndarray, arrays, record) -> None:
  """samples.npz, samples.png and samples.json."""
  with (
    atomic.replacing(output / "samples.npz") as path,
    open(path, "wb") as file,
  ):
    np.savez(file, **arrays)
  with atomic.replacing(output / "samples.png") as path:
    contact_sheet.contact_sheet(rows).save(path, format="PNG")
  with atomic.replacing(output / "samples.json") as path:
    path.write_text(json.dumps(record, indent=2) + "\n")


def draw(task, model, params, labels, args, **options) -> np.ndarray:
  """f32 `[n, h, w, c]`, in batches of one shape.

  An image's noise is by the seed, its class and its number in the class alone.
  """
  root, count = jax.random.key(args.seed), args.count
  within = np.arange(len(labels)) % count
  keys = jax.vmap(
    lambda label, i: jax.random.fold_in(jax.random.fold_in(root, label), i)
  )(jnp.asarray(labels), jnp.asarray(within))
  batch = min(args.batch_size, len(labels))

  @jax.jit
  def program(params, labels, keys):
    return task.sample(model, params, labels, keys, **options)

  parts = []
  for start in range(0, len(labels), batch):
    # The last batch is filled up with its last image.
    places = np.minimum(np.arange(start, start + batch), len(labels) - 1)
    found = program(params, jnp.asarray(labels[places]), keys[places])
    parts.append(np.asarray(found)[: len(labels) - start])
  return np.concatenate(parts)


def choose_sampler(args, task: Diffusion) -> Sampler:
  """The run's, with what the arguments say otherwise."""
  chosen = vars(task.sampler)
  for name in ("steps", "guidance", "eta"):
    value = getattr(args, name)
    if value is not None:
      with config_errors_at(f"--{name}"):
        Sampler(**{name: value}).check(task.schedule)
      chosen = {**chosen, name: value}
  sampler = Sampler(**chosen)
  if sampler.guidance != 1 and not (task.num_classes and task.class_dropout):
    raise ConfigError(
      f"--guidance {sampler.guidance:g}: the model did not learn to do without "
      "classes: give --guidance 1"
    )
  return sampler


def choose_classes(text: str, names, task: Diffusion) -> list[int]:
  """ "0,1,2", names or "all" as numbers; [0] of a model without classes."""
  if not task.num_classes:
    if text != "all":
      raise ConfigError(
        f"--classes {text!r}: the model was told no classes: leave it out"
      )
    return [0]
  if text == "all":
    return list(range(len(names)))
  found = []
  for word in text.split(","):
    # Names first: those of digits are numbers.
    if word in names:
      number = names.index(word)
    elif word.isdecimal() and int(word) < len(names):
      number = int(word)
    else:
      raise ConfigError(
        f"--classes has {word!r}: give names of {listed(names)}, or numbers of "
        f"0 to {len(names) - 1}"
      )
    if number in found:
      raise ConfigError(
        f"--classes has {names[number]!r} twice: --count says how many images "
        "there are of each"
      )
    found.append(number)
  return found


def choose_patch_size(text, spec) -> tuple[int, int]:
  if text is not None:
    with config_errors_at("--patch_size"):
      return parse_hw(text)
  if spec.patch_size is None:
    sizes = listed(map(size_name, spec.trained_sizes))
    raise ConfigError(
      f"{spec.path} was trained at several patch sizes: give --patch_size, one "
      f"of {sizes}"
    )
  return spec.patch_size


def choose_image_size(text, run) -> tuple[int, int]:
  if text is not None:
    with config_errors_at("--image_size"):
      return parse_hw(text)
  hw = eval_transforms.trained_hw(run)
  if hw is None and isinstance(run.train.source, Arrays):
    with config_errors_at("config.train"):
      hw = run.train.source.open().size(0)
  if hw is None:
    raise ConfigError(
      "the run does not say how large its images are: give --image_size"
    )
  return hw


if __name__ == "__main__":
  main_lib.run_renamed("sample")
