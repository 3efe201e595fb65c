"""cka: how alike the layers are at two patch sizes, for the same images."""

import itertools

import numpy as np

from flexivit_jax.analysis import cka
from flexivit_jax.cli.analyses import images
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align
from flexivit_jax.nn import pooling

# Of patch sizes, in one figure: those of five.
MOST_PAIRS = 10


def add_arguments(parser) -> None:
  images.add_arguments(parser, images=500)


def run(args) -> Findings:
  if args.images < 2:
    raise ConfigError(f"--images {args.images}: CKA compares at least 2")
  subject = images.choose(args)
  if len(subject.sizes) < 2:
    (only,) = subject.sizes
    raise ConfigError(
      "--patch_sizes: CKA compares at least 2, and there is only "
      f"{size_name(only)}: give 8,16 say"
    )
  if len(subject.images) < 2:
    raise ConfigError(f"--data: CKA compares at least 2 images, of {subject}")
  model = subject.vit.model

  grid = cka.common_grid(
    grid for size in subject.sizes for grid in subject.grids(size)
  )

  def by_image(found, tokens):
    pooled = cka.pooled_layers(model, found, tokens)
    patches = cka.patch_layers(found, tokens, grid)
    return list(zip(pooled, patches, strict=True))

  titles = ("mean of patches", f"patches, on {grid[0]}x{grid[1]}")
  if isinstance(model.pool, pooling.ClassToken):
    titles = ("class token", titles[1])
  grams = {title: {} for title in titles}
  for size in subject.sizes:
    # Features of one size at a time: of large images they fill the memory.
    found = subject.of_images(by_image, size, cka.NAMES)
    for title, images_of_kind in zip(titles, zip(*found, strict=True)):
      name = size_name(size)
      grams[title][name] = cka.grams(images_of_kind)
  blocks = [str(i) for i in range(model.size.depth)]
  labels = {
    title: blocks
    if len(next(iter(each.values()))) == len(blocks)
    else ["in", *blocks]
    for title, each in grams.items()
  }
  first, *_, last = grams[titles[0]]
  matrices = {
    title: cka.between(each[first], each[last]) for title, each in grams.items()
  }
  curves = {
    title: {
      f"{a} and {b}": cka.same_layer(each[a], each[b])
      for a, b in itertools.combinations(each, 2)
    }
    for title, each in grams.items()
  }
  # The largest of all pairs: what a curve has to be far above.
  chance = {
    title: np.max(
      [
        cka.by_chance(each[a], each[b])
        for a, b in itertools.combinations(each, 2)
      ],
      axis=0,
    )
    for title, each in grams.items()
  }
  return Findings(
    figures={
      "cka_layers": cka.draw_similarities(matrices, labels, (first, last)),
      "cka_sizes": cka.draw_same_layers(
        {title: _drawn(pairs, first) for title, pairs in curves.items()},
        chance,
        labels,
      ),
    },
    numbers=dict(_numbers(matrices, curves, chance, (first, last))),
    lines=(str(subject), *_tables(curves, chance, labels)),
  )


def _drawn(pairs, first):
  """All pairs; of more than can be told apart those with the first size."""
  if len(pairs) <= MOST_PAIRS:
    return pairs
  return {k: x for k, x in pairs.items() if k.startswith(f"{first} and ")}


def _numbers(matrices, curves, chance, sizes):
  for kind, title in zip(("pooled", "patches"), matrices):
    yield f"{kind}_{sizes[0]}_by_{sizes[1]}", matrices[title]
    yield f"{kind}_chance", chance[title]
    for pair, values in curves[title].items():
      yield f"{kind}_same_layer_{pair.replace(' and ', '_')}", values


def _tables(curves, chance, labels):
  for title, pairs in curves.items():
    rows = [("sizes", *labels[title])]
    rows += [
      (pair, *(f"{x:.2f}" for x in values))
      for pair, values in [*pairs.items(), ("chance", chance[title])]
    ]
    yield f"CKA of the same layer, {title}:\n{align(rows, left=1)}"


ANALYSIS = Analysis(
  name="cka",
  help="similarity of the layers at one patch size with those at another",
  add_arguments=add_arguments,
  run=run,
)
