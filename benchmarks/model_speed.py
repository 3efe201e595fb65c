"""FlexiViT-S at 240 px against a textbook ViT and the matrix-product rate.

  python -m benchmarks.model_speed

Forward and train step (gradients and AdamW) at four grids, batch 8, float32, on
whatever device JAX finds. Both models and the matrix product are timed in turn,
round after round, in one process, so that the ratios hold on a busy machine
too. Writes benchmarks/results/model_speed.json; about 10 minutes on two cores.
"""

import argparse
import dataclasses
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import machine, markdown, timing
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid

RESULTS = pathlib.Path(__file__).parent / "results" / "model_speed.json"
SIDE, BATCH, CLASSES = 240, 8, 1000
SIZE = sizes.SIZES["S"]
GRIDS = (5, 8, 15, 30)


class TextbookViT(nn.Module):
  """ViT-S as flax's own modules make it, one patch size, pool by average."""

  patch: int

  @nn.compact
  def __call__(self, images):
    p = (self.patch, self.patch)
    x = nn.Conv(SIZE.width, p, strides=p, padding="VALID")(images)
    x = x.reshape(x.shape[0], -1, SIZE.width)
    init = nn.initializers.normal(0.02)
    x = x + self.param("pos_embedding", init, (1, *x.shape[1:]))
    for _ in range(SIZE.depth):
      y = nn.LayerNorm(epsilon=1e-6)(x)
      x = x + nn.MultiHeadDotProductAttention(num_heads=SIZE.num_heads)(y, y)
      y = nn.LayerNorm(epsilon=1e-6)(x)
      y = nn.Dense(SIZE.width)(nn.gelu(nn.Dense(SIZE.mlp_dim)(y)))
      x = x + y
    x = nn.LayerNorm(epsilon=1e-6)(x).mean(axis=1)
    return nn.Dense(CLASSES)(x)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--grids", type=int, nargs="+", default=GRIDS)
  args = parser.parse_args()
  rows = [row for grid in args.grids for row in measure(grid, args.rounds)]
  # On a shared machine the product's rate varies from row to row; the share
  # is of the best, so that no row flatters itself.
  best = max(row["product_gflop_per_s"] for row in rows)
  for row in rows:
    row["share_of_product_rate"] = row["gflop_per_s"] / best
  results = {"machine": machine.describe(), "rounds": args.rounds, "rows": rows}
  if tuple(args.grids) == GRIDS:
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(rows))


def measure(grid, rounds):
  """Times forward and train step at one grid; two rows."""
  patch = SIDE // grid
  rng = np.random.default_rng(0)
  pixels = jnp.asarray(rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8))
  floats = pixels.astype(jnp.float32) / 127.5 - 1
  ours = vit.ViT(
    size=SIZE,
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.Gap(),
    num_classes=CLASSES,
  )
  textbook = TextbookViT(patch)

  def our_logits(params, images):
    tokens = patchify(images, (patch, patch))
    return ours.apply({"params": params}, tokens).logits[:, 0]

  def textbook_logits(params, images):
    return textbook.apply({"params": params}, images)

  key = jax.random.key(0)
  our_params = jax.jit(
    lambda: ours.init(key, patchify(pixels, (patch, patch)))["params"]
  )()
  textbook_params = jax.jit(lambda: textbook.init(key, floats)["params"])()
  square = jnp.ones((2048, 2048))
  product = jax.jit(lambda a: a @ a)
  for what in ("forward", "train step"):
    make = forward if what == "forward" else train_step
    calls = {
      "flexivit_jax": make(our_logits, our_params, pixels),
      "textbook": make(textbook_logits, textbook_params, floats),
      "product": lambda: product(square),
    }
    seconds = timing.in_turn(calls, rounds)
    factor = 1 if what == "forward" else 3
    flops = factor * BATCH * forward_flops(grid * grid, patch)
    rate = 2 * 2048**3 / seconds["product"] / 1e9
    row = {"grid": grid, "tokens": grid * grid, "what": what}
    for name in ("flexivit_jax", "textbook"):
      row[f"{name}_ms_per_image"] = 1e3 * seconds[name] / BATCH
    ratio = seconds["flexivit_jax"] / seconds["textbook"]
    yield row | {
      "ratio": ratio,
      "gflop_per_s": flops / seconds["flexivit_jax"] / 1e9,
      "product_gflop_per_s": rate,
    }
    print(f"grid {grid} {what}: ratio {ratio:.2f}", flush=True)


def forward(logits, params, images):
  call = jax.jit(logits)
  return lambda: call(params, images)


def train_step(logits, params, images):
  labels = jnp.arange(BATCH)
  tx = optax.adamw(1e-4)

  @jax.jit
  def step(params, opt_state):
    def loss(params):
      return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, images), labels
      ).mean()

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  state = jax.jit(tx.init)(params)
  return lambda: step(params, state)


def forward_flops(tokens, patch) -> float:
  """Of one image: two per multiply-add, products only."""
  size = dataclasses.asdict(SIZE)
  d, m, depth = size["width"], size["mlp_dim"], size["depth"]
  block = 2 * tokens * (4 * d * d + 2 * d * m) + 4 * tokens * tokens * d
  embedding = 2 * tokens * patch * patch * 3 * d
  return depth * block + embedding + 2 * d * CLASSES


def table(rows) -> str:
  head = (
    "grid (tokens)",
    "",
    "flexivit_jax, ms/image",
    "textbook, ms/image",
    "ratio",
    "GFLOP/s",
    "share of matrix product",
  )
  lines = [
    (
      f"{r['grid']} ({r['tokens']})",
      r["what"],
      f"{r['flexivit_jax_ms_per_image']:.1f}",
      f"{r['textbook_ms_per_image']:.1f}",
      f"{r['ratio']:.2f}",
      f"{r['gflop_per_s']:.0f}",
      f"{100 * r['share_of_product_rate']:.0f} %",
    )
    for r in rows
  ]
  return markdown.table(head, lines)


if __name__ == "__main__":
  main()
