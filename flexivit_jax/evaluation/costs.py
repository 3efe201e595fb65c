"""Costs of each setting of a sweep: counted, planned and timed."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from flexivit_jax.core.resolution import within_grid
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.devices import compilation, placement
from flexivit_jax.evaluation.reading import Reading
from flexivit_jax.evaluation.settings import Cost, Setting
from flexivit_jax.evaluation.sweep import Forward, Found, Program
from flexivit_jax.models import cost
from flexivit_jax.models.vit import ViT

At = Callable[[Setting], tuple[Forward, Any]]


def count(
  model: ViT, reading: Reading, view: int, setting: Setting, found: Found
) -> float:
  """Multiply-adds of one image's forward pass; for packed rows a row's, padding
  included, over the images in it."""
  inputs = reading.loader.example(view).inputs
  if not isinstance(inputs, Tokens):
    return cost.multiply_adds(model, setting.image_hw, setting.patch_hw)
  patches = inputs.segments.shape[1]
  row = cost.packed_multiply_adds(
    model, patches, inputs.num_images, inputs.patch_sizes
  )
  return row / found.images_per_row


def plan(
  model: ViT,
  reading: Reading,
  programs: dict[Setting, Program],
  found: dict[Setting, Found],
) -> dict[Setting, Cost]:
  """Costs that need no clock, but for the seconds of compiling."""
  return {
    setting: Cost(
      multiply_adds=count(model, reading, view, setting, found[setting]),
      peak_bytes=programs[setting].peak_bytes,
      compile_s=programs[setting].compile_s,
    )
    for view, settings in enumerate(reading.views)
    for setting in settings
  }


def one_image_hw(
  setting: Setting, largest_grid: tuple[int, int] | None
) -> tuple[int, int] | None:
  """The image whose latency is measured, in pixels: of the setting's size, or
  nearly square, of nearly as many patches as its budget or as the model has
  positions for; None where images are of any size."""
  if setting.image_hw is not None:
    return setting.image_hw
  if setting.budget is None:
    return None
  rows = int(setting.budget**0.5)
  h, w = setting.patch_hw
  image_hw = rows * h, setting.budget // rows * w
  if largest_grid is None:
    return image_hw
  return within_grid(image_hw, setting.patch_hw, largest_grid)


def compile_for_one(
  at: At,
  settings: Iterable[Setting],
  largest_grid: tuple[int, int] | None,
  report: Callable[[str], None],
) -> dict[Setting, Callable[[], Any]]:
  """Programs that answer one image on one device; call them to start it.

  Args:
    at: of a setting, its forward pass and parameters on their devices.
    largest_grid: of the model's positions.
    report: called with one line after each.
  """
  sizes = {s: one_image_hw(s, largest_grid) for s in settings}
  sizes = {s: image_hw for s, image_hw in sizes.items() if image_hw is not None}
  runs = {}
  for i, (setting, image_hw) in enumerate(sizes.items(), start=1):
    function, params = at(setting)
    params = jax.tree.map(lambda x: x.addressable_data(0), params)
    zero = np.zeros((1, 1), np.int32)
    batch = Batch(
      inputs=np.zeros((1, *image_hw, 3), np.uint8),
      labels=zero,
      weights=np.ones((1, 1), np.float32),
      index=zero,
    )
    batch = jax.device_put(batch, jax.local_devices()[0])
    function = functools.partial(function, patch_hw=setting.patch_hw)
    call, seconds = compilation.timed(function, (params, batch), {})
    runs[setting] = functools.partial(call, params, batch)
    report(
      f"compiled for one image {i}/{len(sizes)}: {setting}, {seconds:.1f} s"
    )
  return runs


def measure_time(
  costs: dict[Setting, Cost],
  at: At,
  reading: Reading,
  programs: dict[Setting, Program],
  for_one: dict[Setting, Callable[[], Any]],
  found: dict[Setting, Found],
  mesh: jax.sharding.Mesh,
  done: Callable[[Setting, Cost], None],
) -> None:
  """Measures latency and throughput, one after the other: everything was
  compiled before, and nothing is loaded meanwhile.

  Args:
    costs: to complete.
    done: called with each setting's complete cost.
  """
  for view, settings in enumerate(reading.views):
    batch = placement.to_devices(reading.loader.example(view), mesh)
    for setting in settings:
      _, params = at(setting)
      images = batch.index.shape[0] * found[setting].images_per_row
      run = functools.partial(programs[setting].call, params, batch)
      one = for_one.get(setting)
      complete = dataclasses.replace(
        costs[setting],
        latency_s=None if one is None else latency(one),
        images_per_s=per_second(run, images),
      )
      done(setting, complete)


# Of each measurement, in seconds.
LONG_ENOUGH = 1.0
# Calls of one measurement.
MOST = 1000


def seconds_each(run: Callable[[], object], least: int = 3) -> np.ndarray:
  """Time many calls, one after the other, after one to warm up.

  Calls stop after `LONG_ENOUGH`, but are `least` to `MOST`.

  Args:
    run: starts the computation and returns its arrays, which are waited for.

  Returns:
    float64 `[n]`.
  """
  jax.block_until_ready(run())
  seconds, start = [], time.perf_counter()
  while len(seconds) < least or (
    time.perf_counter() - start < LONG_ENOUGH and len(seconds) < MOST
  ):
    before = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - before)
  return np.asarray(seconds)


def latency(run: Callable[[], object]) -> tuple[float, float]:
  """(median, 95th percentile) of the seconds of a call."""
  median, p95 = np.percentile(seconds_each(run, least=20), (50, 95))
  return float(median), float(p95)


def per_second(run: Callable[[], object], count: float) -> float:
  """Throughput per second, where each call handles `count`."""
  return count / float(np.median(seconds_each(run)))
