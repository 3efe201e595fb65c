"""Meshes as text, and rows of another length."""

import pytest

from flexivit_jax.nn.encoder import Size
from flexivit_jax.run.plan.workload import (
  Layout,
  Weights,
  Workload,
  layouts,
  parse_layout,
)


def test_meshes_of_eight_devices():
  assert [str(x) for x in layouts(8)] == [
    "data=8,seq=1",
    "data=4,seq=2",
    "data=2,seq=4",
    "data=1,seq=8",
  ]
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
  assert parse_layout(text) == layout
  assert parse_layout(str(layout)) == layout


@pytest.mark.parametrize(
  "text", ["", "8", "data=0", "data=2,data=4", "data=2,seq=x", "data=2;seq=4"]
)
def test_other_texts_are_refused(text):
  with pytest.raises(ValueError) as e:
    parse_layout(text)
  assert str(e.value) == f"{text!r} is no mesh: give data=2,seq=4 say"


def test_the_table_grows_with_the_rows():
  work = Workload(
    rows=1,
    length=100,
    size=Size(8, 2, 16, 2),
    weights=Weights(7, 28, 56),
    block_numbers=7,
    table=Weights(800, 3200, 6400),
    outside=0.0,
    patch_numbers=3,
  )
  longer = work.of_length(250)
  assert longer.table == (2000, 8000, 16000)
  assert longer.weights == work.weights
  assert longer.activation == 2.5 * work.activation
  assert longer.attention_multiply_adds == 2 * 2 * 250**2 * 8
