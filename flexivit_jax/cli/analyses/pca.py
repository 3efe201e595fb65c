"""pca: patch features as colours, at several patch sizes."""

import functools
import math

import numpy as np

from flexivit_jax.analysis import images as analysis_images
from flexivit_jax.analysis import pca
from flexivit_jax.analysis.activations import check_block
from flexivit_jax.analysis.pca import colours, principal_components
from flexivit_jax.cli.analyses import images as analyses_images
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import size_name


def add_arguments(parser) -> None:
  analyses_images.add_arguments(
    parser, images=8, most=analyses_images.MOST_DRAWN
  )
  parser.add_argument(
    "--block",
    type=int,
    help="features after this block, from 0; default: after the last one and "
    "the final norm",
  )


def run(args) -> Findings:
  subject = analyses_images.choose(args)
  model = subject.vit.model
  if args.block is not None:
    with config_errors_at("--block"):
      check_block(model, args.block)
  if model.size.width < 3:
    raise ConfigError(
      f"--checkpoint: 3 components of features {model.size.width} wide"
    )
  by_image = functools.partial(_features, args.block)
  names = ("outputs",) if args.block is None else ("patches",)
  features = {
    size_name(size): subject.of_images(by_image, size, names)
    for size in subject.sizes
  }
  every = [x for of_size in features.values() for x in of_size]
  with config_errors_at("--images"):
    shares = 100 * principal_components(every).shares
  drawn = iter(colours(every))
  shown = {
    name: [next(drawn) for _ in of_size] for name, of_size in features.items()
  }
  where = "the final norm"
  if args.block is not None:
    where = f"block {args.block % model.size.depth}"
  # With a budget, images of larger patches have more pixels.
  largest = max(subject.sizes, key=math.prod)
  title = f"Patch features after {where}: three components as colours"
  return Findings(
    figures={"pca": pca.draw_colours(subject.pixels(largest), shown, title)},
    numbers={
      f"colours_{name}_image_{number}": np.float32(x)
      for name, of_size in shown.items()
      for number, x in zip(subject.numbers, of_size)
    },
    lines=(
      str(subject),
      f"{title}; they have {', '.join(f'{x:.0f}' for x in shares)} % of the "
      "variance",
    ),
  )


def _features(block, found, tokens):
  x = found.outputs.encoded if block is None else _after(found, block)
  return analysis_images.to_images(tokens, np.asarray(x, np.float32))


def _after(found, block):
  """`patches` starts with what the first block gets."""
  return found.patches[block + 1 if block >= 0 else block]


ANALYSIS = Analysis(
  name="pca",
  help="patch features as colours: three components over all images",
  add_arguments=add_arguments,
  run=run,
)
