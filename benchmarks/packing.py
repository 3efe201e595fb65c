"""Packed rows: how full they are, how fast they are filled, what they save.

  python -m benchmarks.packing --data_dir DIR --dataset photos

Fill and speed of the packer on 20,000 drawn sizes; then ViT-S/16 on 64 images
of a prepared dataset (docs/data.md), resized so that sqrt(area) ~ U(64, 256):
packed into rows of 256 patches, against every image padded to the longest, in
the same model, in turn, in one process. Writes benchmarks/results/packing.json;
about 10 minutes on two cores.
"""

import argparse
import functools
import json
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import machine, markdown, timing
from flexivit_jax.core import resolution, token_drop
from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.tokens import Batch
from flexivit_jax.data.packing import cutter as cutter_lib
from flexivit_jax.data.packing import image_list
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.sources import tfds
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks.classification import Supervised

RESULTS = pathlib.Path(__file__).parent / "results" / "packing.json"
IMAGES, CLASSES, PATCH = 64, 1000, (16, 16)
SAMPLED = resolution.Sampled(64, 256)
DROPS = {
  "no drop": token_drop.NoDrop(),
  "Beta, mean 0.5": token_drop.Beta(0.5, 0.9),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--dataset", default="photos")
  parser.add_argument("--rounds", type=int, default=7)
  args = parser.parse_args()
  source = tfds.Tfds(args.dataset, "train", args.data_dir).open()
  results = {
    "machine": machine.describe(),
    "rounds": args.rounds,
    "fill": [
      fill(row_length, open_rows, name)
      for row_length, open_rows in ((256, 128), (1024, 64))
      for name in DROPS
    ],
    "throughput": list(throughput(source, args.rounds)),
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(fill_table(results["fill"]))
  print(throughput_table(results["throughput"]))


def fill(row_length, open_rows, drop):
  """Padding of 20,000 drawn images, and images packed in a second."""
  rng = np.random.default_rng(0)
  lengths = []
  for i in range(20_000):
    aspect, side = math.exp(rng.normal(0, 0.35)), rng.uniform(64, 256)
    root = math.sqrt(aspect)
    image_hw = round(side / root), round(side * root)
    h, w = resolution.Native(256)(image_hw, PATCH, None)
    tokens = h * w // math.prod(PATCH)
    rate = DROPS[drop](tokens, rng, i)
    lengths.append(len(token_drop.kept(tokens, rate, rng)))
  slots = math.ceil(1.5 * row_length / np.mean(lengths))
  rows = image_list.first_fit(
    lengths, row_length, max_images=slots, open_rows=open_rows
  )
  # The rows that are still open at the end are no measure of the others.
  rows = rows[: (len(rows) - 1) // open_rows * open_rows]
  filled = sum(lengths[i] for row in rows for i in row)
  return {
    "row_length": row_length,
    "open_rows": open_rows,
    "max_images": slots,
    "drop": drop,
    "padding": 1 - filled / (len(rows) * row_length),
    "images_per_row": statistics.mean(map(len, rows)),
    "images_per_s": packing_speed(lengths, row_length, slots, open_rows),
  }


def packing_speed(lengths, row_length, slots, open_rows):
  """Of the loader's packer, from cut images to rows."""
  images = [
    {
      "patches": np.zeros((n, 768), np.uint8),
      "cells": np.ones((n, 5), np.int32),
      "image": np.zeros((1, 2), np.int32),
    }
    for n in lengths
  ]
  rows = rows_lib.rows(
    rows_lib.Images(iter(images).__next__, lambda place: None),
    rows_lib.Packing(row_length, slots, open_rows),
    None,
  )
  start = time.perf_counter()
  for _ in rows:
    pass
  return len(images) / (time.perf_counter() - start)


def throughput(source, rounds):
  """Forward and train step, packed and padded; two rows."""
  model = vit.ViT(
    size=sizes.SIZES["S"],
    kernel_hw=PATCH,
    position=learned_grid.LearnedGrid((16, 16)),
    pool=pooling.Gap(),
    num_classes=CLASSES,
  )
  lengths, cut = cut_images(source)
  batches = {
    "packed": batch_of(cut, image_list.first_fit(lengths, 256), 256),
    "padded": batch_of(cut, [[i] for i in range(len(cut))], max(lengths)),
  }
  params = jax.jit(
    lambda: model.init(
      jax.random.key(0),
      jax.tree.map(lambda x: jnp.asarray(x[:1]), batches["packed"].inputs),
    )["params"]
  )()
  square = jnp.ones((2048, 2048))
  product = jax.jit(lambda a: a @ a)
  for what, make in (("forward", forward), ("train step", train_step)):
    calls = {
      name: make(model, params, jax.tree.map(jnp.asarray, batch))
      for name, batch in batches.items()
    }
    calls["product"] = lambda: product(square)
    seconds = timing.in_turn(calls, rounds)
    rate = 2 * 2048**3 / seconds["product"] / 1e9
    flops = sum(map(real_flops, lengths)) * (1 if what == "forward" else 3)
    packed = batches["packed"].inputs.segments
    row = {
      "what": what,
      "images": len(cut),
      "tokens": sum(lengths),
      "packed_rows": len(packed),
      "padded_to": max(lengths),
      "fill": float((packed > 0).mean()),
      "packed_images_per_s": len(cut) / seconds["packed"],
      "padded_images_per_s": len(cut) / seconds["padded"],
      "ratio": seconds["padded"] / seconds["packed"],
      "real_gflop_per_s": flops / seconds["packed"] / 1e9,
      "product_gflop_per_s": rate,
    }
    row["share_of_product_rate"] = row["real_gflop_per_s"] / rate
    print(json.dumps(row), flush=True)
    yield row


def cut_images(source):
  cutter = cutter_lib.Cutter(
    SAMPLED, FixedPatchSize(PATCH), token_drop.NoDrop(), 256
  )
  rng = np.random.default_rng(0)
  cut = []
  for i in range(IMAGES):
    image = source.image(i)
    plan = cutter.plan(image.shape[:2], rng, i, source.name(i))
    cut.append(cutter.cut(image, plan, rng))
  return [len(cells) for _, cells in cut], cut


def batch_of(cut, rows, row_length) -> Batch:
  slots = max(map(len, rows))
  packing_ = rows_lib.Packing(row_length, slots)
  filled = []
  for members in rows:
    row = rows_lib.empty_row(packing_, cut[0][0].shape[-1])
    start = 0
    for slot, i in enumerate(members):
      patches, cells = cut[i]
      places = slice(start, start + len(cells))
      row["patches"][places], row["cells"][places] = patches, cells
      row["patches_segment_ids"][places] = slot + 1
      row["image"][slot] = i % CLASSES, i
      row["image_segment_ids"][slot] = slot + 1
      start += len(cells)
    filled.append(row)
  return rows_lib.to_batch(filled, (PATCH,), slots)


def real_flops(tokens: int) -> int:
  """Of one image alone, twice its multiply-adds."""
  d, m, depth = 384, 1536, 12
  block = 4 * tokens * d * d + 2 * tokens**2 * d + 2 * tokens * d * m
  embedding = tokens * math.prod(PATCH) * 3 * d
  return 2 * (embedding + depth * block + d * CLASSES)


def forward(model, params, batch):
  call = jax.jit(
    lambda params, tokens: model.apply({"params": params}, tokens).logits
  )
  return lambda: call(params, batch.inputs)


def train_step(model, params, batch):
  tx = optax.adamw(1e-4)
  measure = functools.partial(Supervised().measure, model, patch_hw=None)

  @jax.jit
  def step(params, opt_state):
    def loss(params):
      return measure(params, batch)["loss"].compute()

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  state = jax.jit(tx.init)(params)
  return lambda: step(params, state)


def fill_table(rows) -> str:
  head = ["rows of", "open", "E_max", "token drop", "padding", "images/s"]
  return markdown.table(
    head,
    [
      [
        str(r["row_length"]),
        str(r["open_rows"]),
        str(r["max_images"]),
        r["drop"],
        f"{100 * r['padding']:.1f} %",
        f"{r['images_per_s']:,.0f}",
      ]
      for r in rows
    ],
  )


def throughput_table(rows) -> str:
  head = ["", "packed, images/s", "padded", "ratio", "of the product's rate"]
  return markdown.table(
    head,
    [
      [
        r["what"],
        f"{r['packed_images_per_s']:.1f}",
        f"{r['padded_images_per_s']:.1f}",
        f"{r['ratio']:.2f}",
        f"{r['share_of_product_rate']:.2f}",
      ]
      for r in rows
    ],
  )


if __name__ == "__main__":
  main()
