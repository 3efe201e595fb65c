"""Positions other than one learned table, as a checkpoint tells of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.checkpoints.formats.parameters import BLOCKS, naming, of_rank
from flexivit_jax.core.text import quoted
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.positions import relative as relative_lib
from flexivit_jax.nn.positions import rotary, row_column, waves

# Name to class, and the fields that no array shows.
KINDS = {
  "none": (position_lib.NoPosition, ()),
  "sincos2d": (waves.SinCos2D, ("temperature", "fractional_side")),
  "rotary": (rotary.Rotary, ("temperature",)),
  "fourier": (waves.Fourier, ("fractional_side",)),
  "row_column": (
    row_column.RowColumn,
    ("combine", "read", "first", "antialias"),
  ),
  "joint_table": (row_column.JointTable, ()),
  "relative": (relative_lib.Relative, ()),
}
WITHOUT_ARRAYS = ("none", "sincos2d", "rotary")


def read(
  arrays: Mapping[str, np.ndarray], facts: Facts
) -> position_lib.Position:
  """Reads them off arrays without a `pos_embedding` and the facts beside them.

  Raises:
    ValueError: nobody says which they are, or facts and arrays disagree.
  """
  facts.agree("posemb", None, "the file has no pos_embedding")
  name, shown = _shown_position(arrays, facts)
  if name is None:
    name = facts.get("position", None)
    if name not in WITHOUT_ARRAYS:
      raise ValueError(
        f"{facts.path}: no pos_embedding, and "
        + (
          "nobody says which positions it has instead"
          if name is None
          else f"position is {name!r} ({facts.origins['position']}): only "
          f"{quoted(WITHOUT_ARRAYS)} are known here"
        )
      )
  kind, fields = KINDS[name]
  said = {field: _position_fact(name, field, facts) for field in fields}
  with naming(facts.path):
    return kind(**shown, **said)


def _shown_position(arrays, facts):
  """(name in `KINDS`, the fields that its arrays show)."""
  name, shown = None, {}
  row, col = (
    of_rank(arrays, x, 2, facts.path) for x in (row_column.ROW, row_column.COL)
  )
  joint = of_rank(arrays, row_column.JOINT, 3, facts.path)
  relative = [n for n in arrays if n.endswith("/relative_key")]
  if row is not None and col is not None:
    name, shown = "row_column", {"size": (len(row), len(col))}
  elif joint is not None:
    name, shown = "joint_table", {"size": joint.shape[:2]}
  elif waves.FOURIER in arrays:
    name = "fourier"
  elif relative:
    rank = 4 + relative[0].startswith(f"{BLOCKS}/")
    table = of_rank(arrays, relative[0], rank, facts.path)
    name, shown = (
      "relative",
      {"size": tuple((n + 1) // 2 for n in table.shape[-4:-2])},
    )
  if name is not None:
    facts.agree("position", name, f"its arrays are those of {name!r}")
  return name, shown


def _position_fact(name, field, facts):
  """A field that no array shows."""
  fact = _fact_name(field)
  # Notes of before there was a choice.
  defaults = {
    ("sincos2d", "temperature"): 10_000.0,
    ("row_column", "combine"): "sum",
    ("row_column", "first"): 0,
    ("row_column", "antialias"): True,
  }
  value = facts.get(fact, defaults.get((name, field)))
  if value is None and field != "fractional_side":
    raise ValueError(
      f"{facts.path}: nobody says the {fact} of its positions, {name!r}"
    )
  return value


def _fact_name(field):
  shared = ("temperature", "fractional_side")
  return field if field in shared else f"posemb_{field}"


def _name(position: position_lib.Position) -> str:
  """As a config names it."""
  for name, (kind, _) in KINDS.items():
    if isinstance(position, kind):
      return name
  return "learned_grid"


def facts_of(position: position_lib.Position) -> dict[str, Any]:
  """What `read` asks of its facts, as JSON."""
  name = _name(position)
  fields = KINDS[name][1]
  said = {_fact_name(field): getattr(position, field) for field in fields}
  return {"position": name, **said}


def ours_alone(position: position_lib.Position) -> dict[str, bool]:
  """For `refuse`: positions that only our own formats hold."""
  name = _name(position)
  known = ("learned_grid", "sincos2d", "none")
  fractions = getattr(position, "fractional_side", None) is not None
  return {
    f"{name} positions": name not in known,
    "sincos2d of fractions": name == "sincos2d" and fractions,
  }
