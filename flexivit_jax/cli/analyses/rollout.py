"""rollout: which patches reach the pooled vector, by attention rollout."""

import numpy as np

from flexivit_jax.analysis import attention_distance
from flexivit_jax.analysis import images as analysis_images
from flexivit_jax.analysis.rollout import read_by_pool
from flexivit_jax.cli.analyses import images as analyses_images
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.sizes import size_name
from flexivit_jax.nn import pooling

READERS = {
  pooling.ClassToken: "the class token",
  pooling.Gap: "the mean of the patches",
  pooling.Map: "the probe of the MAP head",
}


def add_arguments(parser) -> None:
  analyses_images.add_arguments(
    parser, images=8, most=analyses_images.MOST_DRAWN, several_sizes=False
  )
  parser.add_argument(
    "--residual",
    type=float,
    default=0.5,
    help="share of a block's own input: 0.5 as Abnar and Zuidema, 0 for the "
    "attention alone; default: %(default)s",
  )


def run(args) -> Findings:
  if not 0 <= args.residual <= 1:
    raise ConfigError(f"--residual {args.residual:g}: give 0 to 1")
  subject = analyses_images.choose(args)
  model, (size,) = subject.vit.model, subject.sizes

  def by_image(found, tokens):
    read = read_by_pool(model, found, tokens, residual=args.residual)
    read = np.asarray(read)
    own = np.zeros(tokens.patches.shape[:2], read.dtype)
    for row, slot, places in analysis_images.places(tokens):
      own[row, places] = read[row, slot, places]
    return analysis_images.to_images(tokens, own)

  heat = subject.of_images(by_image, size, ("attentions", "probe", "segments"))
  reader, name = READERS[type(model.pool)], size_name(size)
  title = (
    f"Rollout to {reader}, patches of {name} px, residual {args.residual:g}"
  )
  ratios = [attention_distance.relative(x) for x in heat]
  return Findings(
    figures={
      "rollout": attention_distance.draw_heat(subject.pixels(size), heat, title)
    },
    numbers={f"image_{number}": x for number, x in zip(subject.numbers, heat)},
    lines=(
      str(subject),
      f"{title}: a patch has {min(x.min() for x in ratios):.2f} to "
      f"{max(x.max() for x in ratios):.2f} times the mean",
    ),
  )


ANALYSIS = Analysis(
  name="rollout",
  help="attention of all blocks multiplied: which patches reach the output",
  add_arguments=add_arguments,
  run=run,
)
