"""Counts what devices send one another, in a jaxpr or a compiled program."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from jax.extend import core

# How many of the bytes that a device holds it sends, for each kind, in a group
# of n devices, by the algorithms that send least.
SHARES = {
  "all_gather": lambda n: (n - 1) / n,  # of the result
  "reduce_scatter": lambda n: (n - 1) / n,  # of the argument
  "all_reduce": lambda n: 2 * (n - 1) / n,
  "all_to_all": lambda n: (n - 1) / n,
  "collective_permute": lambda n: 1,
}

PRIMITIVES = {
  "all_gather": "all_gather",
  "all_gather_invariant": "all_gather",
  "reduce_scatter": "reduce_scatter",
  "psum": "all_reduce",
  "psum_invariant": "all_reduce",
  "pmax": "all_reduce",
  "pmin": "all_reduce",
  "all_to_all": "all_to_all",
  "ppermute": "collective_permute",
}


@dataclasses.dataclass(frozen=True)
class Sent:
  """What one device sends by one kind of collective, in one run.

  Attributes:
    count: calls, of several devices.
    bytes: sent by one device; a fraction where the devices do not divide it.
  """

  count: int = 0
  bytes: float = 0

  def __add__(self, other: "Sent") -> "Sent":
    return Sent(self.count + other.count, self.bytes + other.bytes)

  def __mul__(self, times: int) -> "Sent":
    return Sent(self.count * times, self.bytes * times)


@dataclasses.dataclass(frozen=True)
class Collectives:
  """`Sent` by kind, for one run of a program on one device."""

  all_gather: Sent = Sent()
  reduce_scatter: Sent = Sent()
  all_reduce: Sent = Sent()
  all_to_all: Sent = Sent()
  collective_permute: Sent = Sent()

  @property
  def total(self) -> Sent:
    return sum(vars(self).values(), Sent())

  def __add__(self, other: "Collectives") -> "Collectives":
    return Collectives(
      **{k: v + getattr(other, k) for k, v in vars(self).items()}
    )

  def __mul__(self, times: int) -> "Collectives":
    return Collectives(**{k: v * times for k, v in vars(self).items()})


def _sent(kind: str, held: float, group: int) -> Collectives:
  """One call; nothing is sent within a group of one."""
  if group == 1:
    return Collectives()
  return Collectives(**{kind: Sent(1, held * SHARES[kind](group))})


def of_jaxpr(jaxpr: core.ClosedJaxpr) -> Collectives:
  """Counts the collectives that a program writes itself, inside `shard_map`.

  Those that the compiler adds for global-view arrays are not there; see
  `of_compiled`.

  Raises:
    ValueError: at a collective whose number of runs is not in the program: in
      a `while` loop, or in one branch of a `cond` alone.
  """
  return _of_jaxpr(jaxpr.jaxpr, {})


def _of_jaxpr(jaxpr: core.Jaxpr, sizes: Mapping[str, int]) -> Collectives:
  total = Collectives()
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name in PRIMITIVES:
      total += _of_primitive(eqn, sizes)
      continue
    inner = sizes
    if name == "shard_map":
      inner = dict(params["mesh"].shape)
    counts = [_of_jaxpr(x, inner) for x in _jaxprs(params)]
    if name == "scan":
      total += counts[0] * params["length"]
    elif name == "while" and any(x.total.count for x in counts):
      raise ValueError(
        "a while loop with collectives may run any number of times: write it "
        "as a scan, or as a fori_loop with bounds that are known"
      )
    elif name == "cond":
      if any(x != counts[0] for x in counts):
        raise ValueError(
          "the branches of a cond send different amounts: which of them runs "
          "is not known"
        )
      total += counts[0]
    else:
      total += sum(counts, Collectives())
  return total


def _jaxprs(params) -> Iterator[core.Jaxpr]:
  for value in params.values():
    for x in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(x, core.ClosedJaxpr):
        yield x.jaxpr
      elif isinstance(x, core.Jaxpr):
        yield x


def _of_primitive(eqn, sizes) -> Collectives:
  kind = PRIMITIVES[eqn.primitive.name]
  axes = eqn.params.get("axes", eqn.params.get("axis_name"))
  axes = axes if isinstance(axes, (tuple, list)) else (axes,)
  group = math.prod(sizes[x] for x in axes)
  groups = eqn.params.get("axis_index_groups")
  if groups is not None:
    group = len(groups[0])
  arrays = eqn.outvars if kind == "all_gather" else eqn.invars
  avals = [x.aval for x in arrays]
  return _sent(kind, sum(x.size * x.dtype.itemsize for x in avals), group)


# An instruction's kind, by how it is spelled in a compiled program.
OPCODES = {kind.replace("_", "-"): kind for kind in SHARES}
# Attributes that name computations which run once for each run of theirs.
CALLED = re.compile(
  r"(?:body|condition|to_apply|calls|true_computation|false_computation"
  r"|branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)


def of_compiled(text: str) -> Collectives:
  """Counts the collectives of a compiled program, those of the compiler too.

  Args:
    text: `jax.jit(f).lower(...).compile().as_text()`.

  Raises:
    ValueError: where a loop's number of runs is not in the text, or an
      instruction sends data in a way that is not known here.
  """
  header = text.split("\n", 1)[0]
  devices = math.prod(
    int(n)
    for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
  )
  computations, entry = _computations(text)
  known: dict[str, Collectives] = {}

  def of(name: str) -> Collectives:
    if name not in known:
      lines = computations[name]
      known[name] = sum((of_line(x) for x in lines), Collectives())
    return known[name]

  def of_line(line: str) -> Collectives:
    shape, opcode, rest = _instruction(line)
    if opcode.endswith("-done") or opcode == "async-update":
      return Collectives()
    kind = opcode.removesuffix("-start")
    if kind in OPCODES:
      return _of_instruction(
        OPCODES[kind], shape, rest, kind != opcode, devices
      )
    if kind in ("ragged-all-to-all", "collective-broadcast", "send"):
      raise ValueError(f"what {kind} sends is not counted: {line.strip()[:80]}")
    called = CALLED.findall(rest)
    names = re.findall(r"%([\w.\-]+)", " ".join(called))
    counts = [of(x) for x in names]
    if opcode == "conditional":
      if any(x != counts[0] for x in counts):
        raise ValueError("the branches of a conditional send different amounts")
      return counts[0]
    total = sum(counts, Collectives())
    if opcode != "while" or not total.total.count:
      return total
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
    if trips is None:
      raise ValueError(
        "a loop with collectives may run any number of times: "
        f"{line.strip()[:80]}"
      )
    return total * int(trips[1])

  return of(entry)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Instructions of each computation, and which one a run starts with."""
  found, entry, lines = collections.defaultdict(list), None, None
  for line in text.splitlines():
    head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
    if head and not line.startswith("HloModule"):
      lines = found[head[2]]
      entry = head[2] if head[1] else entry
    elif line.startswith("}"):
      lines = None
    elif lines is not None and " = " in line:
      lines.append(line)
  if entry is None:
    raise ValueError("no ENTRY: give the text of a compiled program")
  return found, entry


def _instruction(line: str) -> tuple[str, str, str]:
  """(shape of the result, opcode, operands and attributes)."""
  text = re.sub(r"/\*.*?\*/", "", line.split(" = ", 1)[1])
  end = _closing(text) if text.startswith("(") else text.index(" ")
  opcode, rest = text[end:].lstrip().split("(", 1)
  return text[:end], opcode, rest


def _closing(text: str) -> int:
  """Where the first bracket of a text is closed."""
  depth = 0
  for i, c in enumerate(text):
    depth += (c == "(") - (c == ")")
    if depth == 0:
      return i + 1
  raise ValueError(f"brackets do not match: {text[:80]}")


def _of_instruction(kind, shape, rest, started, devices) -> Collectives:
  if started and kind != "all_reduce":
    # (arguments, results, ...): those of all-reduce alone are just results.
    shape = _elements(shape)[1]
  held = _bytes(shape)
  group = _group(rest, devices)
  if kind == "reduce_scatter":
    held *= group
  return _sent(kind, held, group)


def _elements(shape: str) -> list[str]:
  """The elements of a tuple's shape."""
  elements, depth, start = [], 0, 1
  for i, c in enumerate(shape):
    depth += (c in "([{") - (c in ")]}")
    if (c == "," and depth == 1) or depth == 0:
      elements.append(shape[start:i].strip())
      start = i + 1
  return elements


def _bytes(shape: str) -> float:
  total = 0.0
  for dtype, sides in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
    # f8e4m3fn has 8 bits, bf16 has 16; pred has a byte.
    bits = re.search(r"\d+", dtype)
    size = math.prod(int(n) for n in sides.split(",") if n)
    total += size * (int(bits[0]) if bits else 8) / 8
  return total


def _group(rest: str, devices: int) -> int:
  """Devices of one group, in any of the spellings of `replica_groups`."""
  if lists := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
    return len(lists[1].split(","))
  if tiles := re.search(r"replica_groups=\[([\d,]+)\]<=", rest):
    return int(tiles[1].split(",")[-1])
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    # 'x':(2)4 are four of the devices of axis x.
    parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in parts)
  return devices
