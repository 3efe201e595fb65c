"""Strict comparison of a checkpoint's arrays with a model's parameters.

Names and shapes are those of docs/parameters.md.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

MAX_ROWS = 8
MAX_HINTS = 4


def check_shapes(
  found: Mapping[str, Any], wanted: Mapping[str, Any], path
) -> None:
  """Refuses leftovers in both directions.

  Args:
    found: {name: anything with a shape} of the checkpoint.
    wanted: {name: anything with a shape} of the model.
    path: of the checkpoint, for the error.

  Raises:
    ValueError: a table of missing, unexpected and wrongly shaped arrays, and
      the options of the model that would make them agree.
  """
  found, wanted = _shapes(found), _shapes(wanted)
  rows = _rows(found, wanted)
  if not rows:
    return
  shown = _choose(rows)
  lines = [f"{path} does not match the model:"]
  lines += _align([("kind", "name", "checkpoint", "model"), *shown])
  if len(rows) > len(shown):
    lines.append(f"and {len(rows) - len(shown)} more")
  hints = list(_hints(found, wanted))
  if hints:
    more = ", ..." if len(hints) > MAX_HINTS else ""
    settings = ", ".join(hints[:MAX_HINTS]) + more
    lines.append(f"hint: the checkpoint was made with {settings}")
  raise ValueError("\n".join(lines))


def _shapes(arrays) -> Shapes:
  return {name: tuple(map(int, x.shape)) for name, x in arrays.items()}


def _rows(found: Shapes, wanted: Shapes) -> list[tuple[str, str, str, str]]:
  """(kind, name, checkpoint's shape, model's), layers that agree as one."""
  groups: dict[tuple, list[int]] = {}
  for name in sorted(found.keys() | wanted.keys()):
    have, want = found.get(name), wanted.get(name)
    if have == want:
      continue
    kind = "wrong shape"
    if have is None or want is None:
      kind = "missing" if have is None else "unexpected"
    number = re.search(r"(?<=_)\d{1,9}(?=/)", name)
    if number:
      name = f"{name[: number.start()]}{{}}{name[number.end() :]}"
    numbers = groups.setdefault((kind, name, have, want), [])
    numbers += [int(number[0])] if number else []
  return [
    (kind, _name(name, numbers)[:100], _text(have), _text(want))
    for (kind, name, have, want), numbers in groups.items()
  ]


def _axis(shape, axis):
  """Its length; 0 where there is no such axis, or no such array."""
  return shape[axis] if shape is not None and len(shape) > axis else 0


def _text(shape):
  return "-" if shape is None else str(shape)


def _name(pattern, numbers):
  """ "block_{0..2,5}/kernel (4x)"."""
  if not numbers:
    return pattern
  if len(numbers) == 1:
    return pattern.replace("{}", str(numbers[0]))
  runs: list[list[int]] = []
  for n in sorted(numbers):
    if runs and n == runs[-1][-1] + 1:
      runs[-1].append(n)
    else:
      runs.append([n])
  text = ",".join(
    str(r[0]) if len(r) == 1 else f"{r[0]}..{r[-1]}" for r in runs
  )
  return f"{pattern.replace('{}', f'{{{text}}}')} ({len(numbers)}x)"


def _choose(rows):
  """At most MAX_ROWS, some of every kind."""
  kinds = ("missing", "unexpected", "wrong shape")
  ranked = [
    (rank, i)
    for kind in kinds
    for rank, i in enumerate(i for i, row in enumerate(rows) if row[0] == kind)
  ]
  chosen = [i for _, i in sorted(ranked)[:MAX_ROWS]]
  return sorted(
    (rows[i] for i in chosen), key=lambda row: (kinds.index(row[0]), row[1])
  )


def _align(rows):
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    cells = (cell.ljust(width) for cell, width in zip(row, widths))
    yield "  " + "  ".join(cells).rstrip()


def _hints(found: Shapes, wanted: Shapes) -> Iterator[str]:
  """Options, with the values that the checkpoint was made with."""
  if not found.keys() & wanted.keys():
    first = min(found) if found else "none"
    yield f"another program, or nested otherwise: its names look like {first}"
    return
  yield from _size(found, wanted)
  yield from _embedding(found, wanted)
  yield from _positions(found, wanted)
  yield from _tokens(found, wanted)
  yield from _leaves(found, wanted)
  yield from _head(found, wanted)


BLOCK = re.compile(r"Transformer/encoderblock(?:_(\d+))?/(.*)")


def _blocks(shapes: Shapes):
  """(depth, stacked or not, {name in a block: its shape without depth})."""
  depth, stacked, leaves = 0, False, {}
  for name, shape in shapes.items():
    if not (match := BLOCK.match(name)):
      continue
    if match[1] is None:
      depth, stacked, shape = _axis(shape, 0), True, shape[1:]
    else:
      depth = max(depth, int(match[1]) + 1)
    leaves[match[2]] = shape
  return depth, stacked, leaves


ATTENTION = "MultiHeadDotProductAttention_0"


def _sizes(shapes):
  depth, _, leaves = _blocks(shapes)
  query = leaves.get(f"{ATTENTION}/query/kernel")
  sizes = {
    "width": _axis(query, 0),
    "depth": depth,
    "mlp_dim": _axis(leaves.get("MlpBlock_0/Dense_0/kernel"), 1),
    "num_heads": _axis(query, 1),
  }
  return {name: value for name, value in sizes.items() if value}


def _size(found, wanted):
  have, want = _sizes(found), _sizes(wanted)
  other = {name: x for name, x in have.items() if want.get(name) != x}
  if "width" in other:
    # All that follows from it differs too: a whole size, not one field.
    fields = ", ".join(f"{name} {x}" for name, x in have.items())
    yield f"another model.size ({fields})"
  else:
    yield from (f"model.size.{name}={x}" for name, x in other.items())
  have, want = _blocks(found), _blocks(wanted)
  if have[0] and want[0] and have[1] != want[1]:
    yield f"model.scan={have[1]}"


def _embedding(found, wanted):
  have, want = (s.get("embedding/kernel") for s in (found, wanted))
  if not (have and want and len(have) == len(want) == 4):
    return
  if have[:2] != want[:2]:
    yield f"model.kernel_hw={have[:2]}"
  if have[2] != want[2] and not any(map(_has_stem, (found, wanted))):
    yield f"model.channels={have[2]}"


def _has_stem(shapes):
  # The channels of the patch embedding are the stem's.
  return any(name.startswith(("conv_root/", "stem/")) for name in shapes)


def _positions(found, wanted):
  (kind, size), (other_kind, other_size) = map(_position, (found, wanted))
  if kind != other_kind:
    yield f"model.position={kind}"
  if size and (kind, size) != (other_kind, other_size):
    yield f"model.position.size{size}"


def _position(shapes):
  """(the choice that these arrays are for, its size as a text)."""
  if table := shapes.get("pos_embedding"):
    cells = math.prod(table[:-1])
    side = math.isqrt(cells)
    square = side**2 == cells
    return (
      "learned_grid",
      f"=({side}, {side})" if square else f" of {cells} cells",
    )
  row, col, joint = (
    shapes.get(f"pos_embedding_{name}", ()) for name in ("row", "col", "joint")
  )
  if row or col:
    return "row_column", f"=({_axis(row, 0)}, {_axis(col, 0)})"
  if joint:
    return "joint_table", f"={joint[:2]}"
  if "pos_embedding_fourier/kernel" in shapes:
    return "fourier", ""
  if key := _blocks(shapes)[2].get(f"{ATTENTION}/relative_key"):
    return "relative", f"={tuple((n + 1) // 2 for n in key[-4:-2])}"
  return "sincos2d, rotary or none", ""


def _tokens(found, wanted):
  have, want = _pool(found), _pool(wanted)
  if have != want:
    yield f"model.pool={have}"
  have, want = (_axis(s.get("registers"), 1) for s in (found, wanted))
  if have != want:
    yield f"model.registers={have}"


def _pool(shapes):
  if any(name.startswith("MAPHead_0/") for name in shapes):
    return "map"
  return "tok" if "cls" in shapes else "gap"


# What a name holds, the option that makes it, and what turns it on and off.
LEAVES = (
  ("LayerScale_", "model.layer_scale", "1e-4 or another number", "None"),
  ("conv_root/", "model.stem", "resnet", "none"),
  ("stem/Conv_", "model.stem", "early_convolutions", "none"),
  ("embedding_norm/", "model.embedding_norm", "True", "False"),
  ("query_ln/", "model.qk_norm", "True", "False"),
  ("query/bias", "model.qkv_bias", "True", "False"),
  (f"{ATTENTION}/out/bias", "model.proj_bias", "True", "False"),
  ("/Dense_gate/", "model.gated_mlp", "True", "False"),
  ("/LayerNorm_0/bias", "model.rms_norm", "False", "True"),
  ("_pos_embedding", "model.prefix_position", "True", "False"),
  ("pool_norm/", "model.norm_after_pool", "True", "False"),
  ("pre_logits/", "model.representation", "True", "False"),
)


def _leaves(found, wanted):
  for part, option, on, off in LEAVES:
    have, want = (any(part in name for name in s) for s in (found, wanted))
    if have != want:
      yield f"{option}={on if have else off}"


def _head(found, wanted):
  have, want = (_axis(s.get("head/bias"), 0) for s in (found, wanted))
  if have != want:
    yield f"model.num_classes={have}"
