"""Attention over every pixel of a photograph: 224 x 224 = 50,176 tokens.

  python -m benchmarks.long_sequence

One layer of one head of 16, forward and backward, on 8 simulated devices:
time, temporary memory of one device, and the error of 64 sampled rows against
float64. Then, compiled only, how memory grows with the length, on one device
and on 8; and the time of blocks of two sizes in rows of one and of 16 images,
in turn, on one device. Times on simulated devices compare distributions of
equal work; they are no speed of any accelerator. Writes
benchmarks/results/long_sequence.json.
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks import machine, markdown, timing
from flexivit_jax.attention import blockwise, dense, local, query_sharded, ring
from flexivit_jax.devices import axes

RESULTS = pathlib.Path(__file__).parent / "results" / "long_sequence.json"
PARTS = 8
TOKENS = 224 * 224
DISTRIBUTIONS = {
  "local": local.Local(),
  "query_sharded": query_sharded.QuerySharded(),
  "ring": ring.Ring(),
}
# What is compared with float64, over the largest value of each.
LARGEST_ERROR = 5e-6


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--tokens", type=int, default=TOKENS)
  parser.add_argument("--rows", type=int, default=64)
  args = parser.parse_args()
  jax.config.update("jax_num_cpu_devices", PARTS)
  results = {
    "machine": machine.describe(),
    "tokens": args.tokens,
    "parts": PARTS,
    "exactness": exactness(args.tokens, args.rows),
    "blocks": blocks(),
    "memory": memory(),
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(exactness_table(results["exactness"]))
  print(blocks_table(results["blocks"]))
  print(memory_table(results["memory"]))
  worst = max(max(r["errors"].values()) for r in results["exactness"])
  if not worst <= LARGEST_ERROR:
    raise SystemExit(f"an error of {worst:.1e} exceeds {LARGEST_ERROR:.0e}")


def exactness(tokens: int, rows: int) -> list[dict]:
  """Time, memory and error of each distribution of the blockwise kernel."""
  rng = np.random.default_rng(0)
  arrays = rng.normal(size=(4, 1, tokens, 1, 16)).astype(np.float32)
  sample = np.sort(rng.choice(tokens, rows, replace=False))
  expected = reference(*arrays[:, 0, :, 0].astype(np.float64), sample)
  found = []
  for name, distribution in DISTRIBUTIONS.items():
    parts = 1 if name == "local" else PARTS
    compiled = compile_both_ways(
      distribution, blockwise.Blockwise(), arrays[0].shape, parts
    )
    on_devices = jax.device_put(list(arrays), sharding(parts))
    start = time.perf_counter()
    got = jax.block_until_ready(compiled(*on_devices))
    seconds = time.perf_counter() - start
    got = [np.asarray(x)[0, sample, 0].astype(np.float64) for x in got]
    errors = {
      key: float(np.abs(x - y).max() / np.abs(y).max())
      for key, x, y in zip(("out", "d_q", "d_k", "d_v"), got, expected)
    }
    memory_mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
    found.append(
      {
        "distribution": name,
        "parts": parts,
        "seconds": seconds,
        "temporary_mib": memory_mib,
        "errors": errors,
      }
    )
  return found


def sharding(parts: int) -> NamedSharding:
  mesh = jax.make_mesh(
    (1, parts),
    (axes.DATA, axes.SEQ),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[:parts],
  )
  return NamedSharding(mesh, PartitionSpec(axes.DATA, axes.SEQ))


def compile_both_ways(distribution, kernel, shape, parts: int):
  """(q, k, v, d_out) -> (out, d_q, d_k, d_v), in float32."""

  def both_ways(q, k, v, d_out):
    def attend(q, k, v):
      return distribution(kernel, q, k, v).out

    out, gradient = jax.vjp(attend, q, k, v)
    return out, *gradient(d_out)

  split = sharding(parts)
  x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)
  with jax.set_mesh(split.mesh):
    return jax.jit(both_ways).lower(x, x, x, x).compile()


def reference(q, k, v, d_out, sample, chunk: int = 512):
  """Rows `sample` of out, d_q, d_k and d_v, in float64, `[l, e]` each.

  Gradients of keys need all queries: these go in chunks.
  """
  d_k, d_v = np.zeros((2, len(sample), q.shape[1]))
  rows = {}
  scale = q.shape[1] ** -0.5
  for start in range(0, len(q), chunk):
    i = np.arange(start, min(start + chunk, len(q)))
    logits = q[i] @ k.T * scale
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    out = weights @ v
    row = (d_out[i] * out).sum(axis=1, keepdims=True)
    here = weights[:, sample]
    d_v += here.T @ d_out[i]
    d_logits = here * (d_out[i] @ v[sample].T - row)
    d_k += d_logits.T @ q[i] * scale
    for j in np.intersect1d(i, sample):
      d_row = weights[j - start] * (v @ d_out[j] - row[j - start])
      rows[j] = out[j - start], d_row @ k * scale
  out, d_q = (np.stack([rows[j][n] for j in sample]) for n in (0, 1))
  return out, d_q, d_k, d_v


def blocks(tokens: int = 4096, rounds: int = 5) -> list[dict]:
  """Seconds of `Blockwise`, forward and backward, 4 heads of 64."""
  rng = np.random.default_rng(0)
  arrays = [
    jnp.asarray(rng.normal(size=(1, tokens, 4, 64)), jnp.float32)
    for _ in range(4)
  ]
  calls = {}
  for images in (1, 16):
    segments = jnp.asarray(1 + np.arange(tokens)[None] * images // tokens)
    segments = segments.astype(jnp.int32)
    for block in (256, 512):
      kernel = functools.partial(
        blockwise.Blockwise(block, block),
        q_segments=segments,
        kv_segments=segments,
      )

      def both_ways(q, k, v, d_out, kernel=kernel):
        out, gradient = jax.vjp(lambda *x: kernel(*x).out, q, k, v)
        return out, *gradient(d_out)

      calls[images, block] = functools.partial(jax.jit(both_ways), *arrays)
  seconds = timing.in_turn(calls, rounds)
  return [
    {"tokens": tokens, "images": images, "block": block, "seconds": s}
    for (images, block), s in seconds.items()
  ]


def memory() -> list[dict]:
  """Temporary memory of one device, forward and backward, compiled only."""
  by_blocks, found = blockwise.Blockwise(), []
  # All heads at once, as on an accelerator.
  dense.CPU_CACHE_BYTES = 2**60
  for heads, width, rows in (
    (
      4,
      32,
      [
        ("dense", dense.Dense(), "local", 1, (1024, 4096, 16384)),
        ("blockwise", by_blocks, "local", 1, (1024, 4096, 16384)),
      ],
    ),
    (
      3,
      64,
      [
        ("blockwise", by_blocks, "query_sharded", 8, (7168, 25088, 50176)),
        ("blockwise", by_blocks, "ring", 8, (7168, 25088, 50176)),
      ],
    ),
  ):
    for name, kernel, distribution, parts, lengths in rows:
      for length in lengths:
        compiled = compile_both_ways(
          DISTRIBUTIONS[distribution], kernel, (1, length, heads, width), parts
        )
        mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
        found.append(
          {
            "kernel": name,
            "distribution": distribution,
            "parts": parts,
            "heads": heads,
            "head_width": width,
            "tokens": length,
            "temporary_mib": mib,
          }
        )
  return found


def exactness_table(rows) -> str:
  head = (
    "distribution",
    "devices",
    "seconds",
    "temporary MiB, one device",
    *(f"error of {x}" for x in rows[0]["errors"]),
  )
  lines = [
    (
      r["distribution"],
      str(r["parts"]),
      f"{r['seconds']:.1f}",
      f"{r['temporary_mib']:.1f}",
      *(f"{x:.1e}" for x in r["errors"].values()),
    )
    for r in rows
  ]
  return markdown.table(head, lines) + "\n"


def blocks_table(rows) -> str:
  head = ("tokens", "images in the row", "blocks of", "seconds")
  lines = [
    (
      f"{r['tokens']:,}",
      str(r["images"]),
      str(r["block"]),
      f"{r['seconds']:.2f}",
    )
    for r in rows
  ]
  return markdown.table(head, lines) + "\n"


def memory_table(rows) -> str:
  head = ("kernel", "distribution", "devices", "heads", "tokens", "MiB")
  lines = [
    (
      r["kernel"],
      r["distribution"],
      str(r["parts"]),
      f"{r['heads']} x {r['head_width']}",
      f"{r['tokens']:,}",
      f"{r['temporary_mib']:.1f}",
    )
    for r in rows
  ]
  return markdown.table(head, lines)


if __name__ == "__main__":
  main()
