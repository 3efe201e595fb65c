import numpy as np

from flexivit_jax.data.sources.digits import Digits
from flexivit_jax.data.sources.source import InMemory
from flexivit_jax.data.sources.subset import Subset

SOURCE = InMemory(
  np.arange(5 * 4 * 6 * 3, dtype=np.uint8).reshape(5, 4, 6, 3),
  np.array([0, 1, 0, 1, 1]),
  ("a", "b"),
)


def test_it_has_the_images_that_are_named():
  subset = Subset(SOURCE, np.array([4, 0, 3]))
  assert len(subset) == 3
  assert subset.classes == ("a", "b")
  for here, there in enumerate((4, 0, 3)):
    np.testing.assert_array_equal(subset.image(here), SOURCE.image(there))
    assert subset.label(here) == SOURCE.label(there)
    assert subset.size(here) == (4, 6)
    assert subset.name(here) == f"image {there}"


def test_its_fingerprint_is_of_source_and_images():
  other = Digits("test", side=4).open()
  prints = [
    Subset(source, np.array(indices)).fingerprint
    for source in (SOURCE, other)
    for indices in ([0, 1], [1, 0], [0, 1, 2])
  ]
  assert len(set(prints)) == 6
  assert prints[0] == Subset(SOURCE, np.array([0, 1])).fingerprint
