"""Split and class of an image, read from its path."""

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping

from flexivit_jax.core.text import listed, show

# Directories below which an image lies.
DEPTHS = {"split": 2, "class": 1}
FORMS = {"split": "SPLIT/CLASS/FILE", "class": "CLASS/FILE"}

# Directories of these names hold classes, and are none.
SPLITS = (
  *("train", "training", "val", "valid", "validation", "dev"),
  *("test", "testing", "eval"),
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """The split and class of each image.

  Attributes:
    kind: one of FORMS.
    classes: sorted; a label is a place in it. Those of all splits.
    places: file to (split, label), sorted by the parts of its path.
  """

  kind: str
  classes: tuple[str, ...]
  places: Mapping[str, tuple[str, int]]

  def file_name(self, file: str) -> str:
    """Its path in its split: "cat/1.jpg"."""
    return "/".join(file.split("/")[-2:])

  def splits(self) -> dict[str, int]:
    """Number of images of each split, by name."""
    return dict(
      sorted(collections.Counter(s for s, _ in self.places.values()).items())
    )


def find(
  names: Collection[str], kind: str | None = None, split: str | None = None
) -> Layout:
  """The layout of images, from their paths "a/b/c.jpg" alone.

  Args:
    kind: one of FORMS; None: split where a directory two above an image has the
      name of a split (SPLITS), else class.
    split: of SPLIT/CLASS/FILE the one to take, of CLASS/FILE its name
      ("train").

  Raises:
    ValueError: the paths do not fit the layout.
  """
  paths = sorted(name.split("/") for name in names)
  for path in paths:
    if not all(part.isprintable() and part.strip() == part for part in path):
      raise ValueError(
        f"{show('/'.join(path))} has a name of odd characters or with spaces "
        "at its ends: rename it"
      )
  if kind is None:
    kind = (
      "split" if any(map(_is_split, (p[-3:-2] for p in paths))) else "class"
    )
    if kind == "class" and all(map(_is_split, (p[-2:-1] for p in paths))):
      raise ValueError(
        f"{listed({path[-2] for path in paths})} would be splits, with no "
        "classes in them: make it SPLIT/CLASS/FILE, or give --layout class"
      )
  _check_depth(paths, kind)
  places = {
    "/".join(path): (
      path[-3] if kind == "split" else split or "train",
      path[-2],
    )
    for path in paths
  }
  classes = tuple(sorted({label for _, label in places.values()}))
  index = {name: i for i, name in enumerate(classes)}
  places = {n: (its, index[label]) for n, (its, label) in places.items()}
  for name in {its for its, _ in places.values()}:
    if not re.fullmatch(r"\w+", name):
      raise ValueError(f"split {name!r}: name it with letters and digits only")
  layout = Layout(kind, classes, places)
  if kind != "split" or split is None:
    return layout
  if split not in layout.splits():
    raise ValueError(
      f"there is no split {split!r}: take {listed(layout.splits())}"
    )
  chosen = {n: place for n, place in places.items() if place[0] == split}
  return dataclasses.replace(layout, places=chosen)


def _check_depth(paths, kind):
  depth = DEPTHS[kind]
  shallow = [path for path in paths if len(path) <= depth]
  if shallow:
    raise ValueError(
      f"{'/'.join(shallow[0])} is not in {FORMS[kind]}: move or remove it, or "
      f"give another --layout ({', '.join(FORMS)})"
    )
  heads = sorted({"/".join(path[: -1 - depth]) for path in paths})
  if len(heads) > 1:
    raise ValueError(
      f"there are several directories above {FORMS[kind]}, {listed(heads)}: "
      "prepare each by itself"
    )


def _is_split(parts):
  return bool(parts) and parts[0].lower() in SPLITS
