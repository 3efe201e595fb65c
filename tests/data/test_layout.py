"""Which split and class the path of an image says."""

import pytest

from flexivit_jax.data.prepare import layout as layout_lib

# Paths, options, and what becomes of them: kind, then split and class of each.
FOUND = [
  ("train/cat/1.jpg train/dog/1.jpg test/cat/2.jpg", {}, "split",
   "train:cat train:dog test:cat"),
  ("Val/cat/1.jpg extra/dog/1.jpg", {}, "split", "Val:cat extra:dog"),
  ("cat/1.jpg dog/1.jpg", {}, "class", "train:cat train:dog"),
  ("cat/1.jpg dog/1.jpg", {"split": "test"}, "class", "test:cat test:dog"),
  # A directory round all of it.
  ("pets/cat/1.jpg pets/dog/1.jpg", {}, "class", "train:cat train:dog"),
  ("a/b/train/cat/1.jpg a/b/test/cat/1.jpg", {}, "split",
   "train:cat test:cat"),
  ("a/b/cat/1.jpg a/b/dog/1.jpg", {}, "class", "train:cat train:dog"),
  # What only the user can know.
  ("one/1.jpg one/2.jpg", {"kind": "class"}, "class", "train:one train:one"),
  ("a/x/1.jpg b/x/1.jpg", {"kind": "split"}, "split", "a:x b:x"),
  ("train/1.jpg test/1.jpg", {"kind": "class"}, "class",
   "train:train train:test"),
]  # fmt: skip


@pytest.mark.parametrize(("paths", "options", "kind", "expected"), FOUND)
def test_split_and_class(paths, options, kind, expected):
  names = paths.split()
  layout = layout_lib.find(names, **options)
  assert layout.kind == kind
  found = [layout.places[name] for name in names]
  assert [f"{s}:{layout.classes[i]}" for s, i in found] == expected.split()


def test_labels_are_numbered_by_sorted_names_over_all_splits():
  names = ["train/b/1.jpg", "train/a/1.jpg", "test/c/1.jpg"]
  layout = layout_lib.find(names)
  assert layout.classes == ("a", "b", "c")
  assert layout.splits() == {"test": 1, "train": 2}
  assert layout_lib.find(names, split="test").places == {
    "test/c/1.jpg": ("test", 2)
  }


@pytest.mark.parametrize(
  ("path", "kind", "name"),
  [
    ("x/train/cat/1.jpg", "split", "cat/1.jpg"),
    ("x/cat/1.jpg", "class", "cat/1.jpg"),
  ],
)
def test_the_name_of_a_file_starts_at_its_class(path, kind, name):
  assert layout_lib.find([path], kind).file_name(path) == name


def test_the_order_is_that_of_directories():
  # As strings, "a-b/" would come before "a/".
  names = ["a/2.jpg", "a-b/1.jpg", "a/10.jpg"]
  places = layout_lib.find(names).places
  assert list(places) == ["a/10.jpg", "a/2.jpg", "a-b/1.jpg"]


@pytest.mark.parametrize(
  ("paths", "options", "text"),
  [
    (
      ["a.jpg", "train/cat/1.jpg"],
      {},
      "a.jpg is not in SPLIT/CLASS/FILE: move or remove it, or give another "
      "--layout (split, class)",
    ),
    (
      ["a.jpg", "cat/1.jpg"],
      {"kind": "class"},
      "a.jpg is not in CLASS/FILE: move or remove it, or give another --layout "
      "(split, class)",
    ),
    (
      ["test/1.jpg", "train/1.jpg"],
      {},
      "test, train would be splits, with no classes in them: make it "
      "SPLIT/CLASS/FILE, or give --layout class",
    ),
    (
      ["a/x/1.jpg", "b/x/1.jpg"],
      {},
      "there are several directories above CLASS/FILE, a, b: prepare each by "
      "itself",
    ),
    (
      ["a/train/x/1.jpg", "b/train/x/1.jpg"],
      {},
      "there are several directories above SPLIT/CLASS/FILE, a, b: prepare "
      "each by itself",
    ),
    (
      ["train/a/1.jpg", "test/a/1.jpg"],
      {"split": "val"},
      "there is no split 'val': take test, train",
    ),
    (
      ["train-1/a/1.jpg", "test/a/1.jpg"],
      {},
      "split 'train-1': name it with letters and digits only",
    ),
    (
      ["a\n/1.jpg", "b/1.jpg"],
      {},
      "'a\\n/1.jpg' has a name of odd characters or with spaces at its ends: "
      "rename it",
    ),
    (
      ["b/1.jpg", " a/1.jpg"],
      {},
      "' a/1.jpg' has a name of odd characters or with spaces at its ends: "
      "rename it",
    ),
    (
      ["b/\udcff.jpg"],
      {},
      "'b/\\udcff.jpg' has a name of odd characters or with spaces at its "
      "ends: rename it",
    ),
  ],
)
def test_refusals(paths, options, text):
  with pytest.raises(ValueError) as caught:
    layout_lib.find(paths, **options)
  assert str(caught.value) == text
