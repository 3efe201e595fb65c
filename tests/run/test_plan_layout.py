"""Meshes as text."""

import pytest

from flexivit_jax.run.plan.layout import Layout, layouts, parse_layout


def test_meshes_of_eight_devices():
  shapes = [(8, 1), (4, 2), (2, 4), (1, 8)]
  assert [*layouts(8)] == [Layout(*x) for x in shapes]
  assert {x.devices for x in layouts(12)} == {12}
  assert len(layouts(12)) == 6


@pytest.mark.parametrize(
  ("text", "layout"),
  [
    ("data=2,seq=4", Layout(2, 4)),
    ("seq=4,data=2", Layout(2, 4)),
    ("seq=8", Layout(1, 8)),
    ("data=3", Layout(3, 1)),
  ],
)
def test_meshes_as_text(text, layout):
  assert parse_layout(text) == parse_layout(str(layout)) == layout


@pytest.mark.parametrize(
  "text", ["", "8", "data=0", "data=2,data=4", "data=2,seq=x", "data=2;seq=4"]
)
def test_other_texts_are_refused(text):
  with pytest.raises(ValueError, match="give data=2,seq=4") as e:
    parse_layout(text)
  assert repr(text) in str(e.value)
