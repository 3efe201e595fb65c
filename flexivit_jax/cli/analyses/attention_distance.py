"""attention-distance: how far each head looks, by depth."""

import functools

import jax.numpy as jnp
import numpy as np

from flexivit_jax.analysis import attention_distance as attention_distance_lib
from flexivit_jax.analysis import images as analysis_images
from flexivit_jax.analysis.activations import block_weights
from flexivit_jax.analysis.attention_distance import (
  attention_distance,
  mean_of_images,
)
from flexivit_jax.cli.analyses import images as analyses_images
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align


def add_arguments(parser) -> None:
  # So many as in the ViT paper.
  analyses_images.add_arguments(parser, images=128)


def run(args) -> Findings:
  subject = analyses_images.choose(args)
  distances, uniform = {}, {}
  for size in subject.sizes:
    found = subject.of_images(_by_image, size, ("attentions", "segments"))
    name = size_name(size)
    distances[name] = mean_of_images([x for x, _ in found])
    uniform[name] = float(mean_of_images([x for _, x in found]))
  numbers = {f"distance_{name}": x for name, x in distances.items()}
  numbers |= {f"uniform_{name}": np.array(x) for name, x in uniform.items()}
  return Findings(
    figures={
      "attention_distance": attention_distance_lib.draw_distances(
        distances, uniform
      )
    },
    numbers=numbers,
    lines=(str(subject), _table(distances, uniform)),
  )


def _by_image(found, tokens):
  """For each image `[depth, h]`, and what uniform attention has."""
  measure = functools.partial(attention_distance, tokens=tokens)
  blocks = range(len(found.attentions))
  own = jnp.stack([measure(block_weights(found, i)) for i in blocks], axis=2)
  l = tokens.patches.shape[1]
  # Patches of one image alike; those of others have no weight.
  even = jnp.ones((len(tokens.patches), 1, l, l))
  if tokens.segments is not None:
    same = tokens.segments[:, :, None] == tokens.segments[:, None]
    even = jnp.where(same[:, None], even, 0)
  even = measure(even)[..., 0]
  own, even = np.asarray(own), np.asarray(even)
  return [
    (own[place.row, place.slot], even[place.row, place.slot])
    for place in analysis_images.places(tokens)
  ]


def _table(distances, uniform) -> str:
  head = ("patch", "block", "mean px", "least head", "most", "uniform")
  rows = [head]
  for name, values in distances.items():
    for block, heads in enumerate(values):
      least, most = heads.min(), heads.max()
      cells = (heads.mean(), least, most, uniform[name])
      rows.append((name, str(block), *(f"{x:.1f}" for x in cells)))
  return align(rows, left=1)


ANALYSIS = Analysis(
  name="attention-distance",
  help="mean attention distance in pixels, by head and depth",
  add_arguments=add_arguments,
  run=run,
)
