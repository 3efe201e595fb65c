"""What the places of images in a folder or an archive say: split and class."""

import collections
import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

from flexivit_jax.core.text import listed, show

# Directories below which an image lies.
DEPTHS = {"split": 2, "class": 1, "flat": 0}
FORMS = {"split": "SPLIT/CLASS/FILE", "class": "CLASS/FILE", "flat": "FILE"}

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
    return "/".join(file.split("/")[-1 if self.kind == "flat" else -2 :])

  def splits(self) -> dict[str, int]:
    """Number of images of each split, by name."""
    return dict(
      sorted(collections.Counter(s for s, _ in self.places.values()).items())
    )


def find(
  names: Collection[str], kind: str | None = None, split: str | None = None
) -> Layout:
  """The layout of images, from their paths "a/b/c.jpg" alone.

  In a flat layout the class is the file's name without its number: "cat" of
  cat.12.jpg, "n01440764" of n01440764_18.JPEG.

  Args:
    kind: one of FORMS; None: what the paths suggest.
    split: of SPLIT/CLASS/FILE the one to take, of others its name ("train").

  Raises:
    ValueError: the paths fit no layout, or several.
  """
  paths = sorted(name.split("/") for name in names)
  for path in paths:
    if not all(part.isprintable() and part.strip() == part for part in path):
      raise ValueError(
        f"{show('/'.join(path))} has a name of odd characters or with spaces "
        "at its ends: rename it"
      )
  kind = kind or _guess(paths)
  depth = DEPTHS[kind]
  shallow = [path for path in paths if len(path) <= depth]
  if shallow:
    raise ValueError(
      f"{'/'.join(shallow[0])} is not in {FORMS[kind]}: move or remove it, or "
      f"give another --layout ({', '.join(FORMS)})"
    )
  _one(("/".join(path[: -1 - depth]) for path in paths), kind)
  taken = {
    "/".join(path): (path[-3] if kind == "split" else split or "train", path)
    for path in paths
  }
  labels = {
    name: _class_of(path[-1]) if kind == "flat" else path[-2]
    for name, (_, path) in taken.items()
  }
  classes = tuple(sorted(set(labels.values())))
  index = {name: i for i, name in enumerate(classes)}
  places = {n: (its, index[labels[n]]) for n, (its, _) in taken.items()}
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


def _guess(paths) -> str:
  depths = {len(path) - 1: "/".join(path) for path in paths}
  if len(depths) > 1:
    forms = ", ".join(FORMS.values())
    first, second, *_ = (depths[depth] for depth in sorted(depths))
    raise ValueError(
      f"{first} and {second} lie at different depths: put all images in one of "
      f"{forms}"
    )
  depth = next(iter(depths))
  if depth == 0:
    return "flat"
  above = sorted({path[-2] for path in paths})
  if depth == 1:
    if all(map(_is_split, above)):
      raise ValueError(
        f"{listed(above)} would be splits, with no classes in them: make it "
        "SPLIT/CLASS/FILE, or give --layout class"
      )
    if len(above) == 1:
      raise ValueError(
        f"all images are in {above[0]}/: give --layout class if that is their "
        "class, or flat if the names of the files hold it"
      )
    return "class"
  higher = sorted({path[-3] for path in paths})
  if any(map(_is_split, higher)):
    return "split"
  if len(higher) > 1:
    raise ValueError(
      f"{listed(higher)} are not known as splits, as train and test are: give "
      "--layout split if they are, or prepare each by itself"
    )
  return "class"


def _is_split(name):
  return name.lower() in SPLITS


def _one(heads: Iterable[str], kind):
  heads = sorted(set(heads))
  if len(heads) > 1:
    raise ValueError(
      f"there are several directories above {FORMS[kind]}, {listed(heads)}: "
      "prepare each by itself"
    )


def _class_of(file):
  stem = file.rpartition(".")[0]
  name = re.sub(r"[\W_]+\d+\W*$", "", stem)
  if not any(map(str.isalpha, name)):
    raise ValueError(
      f"the name of {file} holds no class: put the images in CLASS/FILE, or "
      "name them as cat_12.jpg"
    )
  return name
