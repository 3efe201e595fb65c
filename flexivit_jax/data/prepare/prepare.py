"""Preparation of folders and archives of images as ArrayRecord files."""

import pathlib
import shutil
from collections.abc import Callable

import tqdm

from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import cut, format_bytes, listed
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.prepare import archives, tfds_writer
from flexivit_jax.data.prepare.layout import FORMS, Layout

# About what is written besides the images, to tell a disk that is too small.
RECORD_BYTES, SPLIT_BYTES = 160, 2**17


def needed_bytes(listing: archives.Listing, layout: Layout) -> int:
  """Bytes of the dataset, about."""
  images = sum(listing.sizes[file] + RECORD_BYTES for file in layout.places)
  return images + SPLIT_BYTES * len(layout.splits())


def check_room(root: pathlib.Path, need: int) -> None:
  """Refuses a disk with fewer free bytes.

  Raises:
    Fault: naming both numbers.
  """
  existing = next(p for p in (root, *root.parents) if p.exists())
  free = shutil.disk_usage(existing).free
  if free < need:
    raise Fault(
      f"{root}: the dataset takes {format_bytes(need)}, and "
      f"{format_bytes(free)} are free: free some space, or give another "
      "--data_dir"
    )


def describe(
  path: pathlib.Path, listing: archives.Listing, layout: Layout
) -> list[str]:
  """Lines on what was found."""
  splits = ", ".join(f"{n} {name}" for name, n in layout.splits().items())
  lines = [
    f"{path}: {FORMS[layout.kind]}, {splits} images of "
    f"{len(layout.classes)} classes: {cut(', '.join(layout.classes), 80)}"
  ]
  for split in layout.splits():
    there = {label for name, label in layout.places.values() if name == split}
    absent = set(range(len(layout.classes))) - there
    if absent:
      names = (layout.classes[label] for label in sorted(absent))
      names = cut(", ".join(names), 80)
      lines.append(f"note: split {split} has no image of {names}")
  if listing.others:
    kinds = listed(f"{n} {kind}" for kind, n in listing.others.items())
    lines.append(f"note: other files are left out: {kinds}")
  return lines


def fill(
  directory: pathlib.Path,
  name: str,
  version: str,
  store: archives.Folder | archives.Archive,
  layout: Layout,
  *,
  skip: bool,
  report: Callable[[str], None],
) -> None:
  """Writes the dataset into an empty directory.

  Args:
    name, version: of the dataset.
    skip: images that cannot be decoded are left out and reported.

  Raises:
    Fault: of the first such image, or there is no good one.
  """
  examples = _whole_examples(store, layout, skip, report)
  tfds_writer.write(directory, name, version, layout.classes, examples)


def _whole_examples(store, layout, skip, report):
  total, good, bad = len(layout.places), 0, []
  with tqdm.tqdm(total=total, unit=" images", disable=None) as bar:
    for file, image in archives.read_whole(store, layout.places):
      bar.update()
      if isinstance(image, BadImageError):
        if not skip:
          raise Fault(
            f"{image}; mend it, or leave it out: --on_bad_image skip"
          ) from image
        bad.append(str(image))
        continue
      good += 1
      split, label = layout.places[file]
      yield tfds_writer.Example(split, label, layout.file_name(file), image)
  if not good:
    raise Fault(f"{store.path}: none of {total} images is good: {bad[0]}")
  for text in bad:
    report(f"skipped: {text}")
