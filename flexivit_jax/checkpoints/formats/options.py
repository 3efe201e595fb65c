"""Options of a model, read off its arrays and the facts beside them."""

from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.checkpoints.formats.parameters import BLOCKS, of_rank
from flexivit_jax.core.text import listed
from flexivit_jax.nn import pooling


def classes(arrays, facts: Facts) -> int:
  """Outputs of the head; 0 without one."""
  for name, rank in (("head/bias", 1), ("head/kernel", 2)):
    if (head := of_rank(arrays, name, rank, facts.path)) is not None:
      return head.shape[-1]
  return 0


def pool(arrays, facts: Facts) -> pooling.Pool:
  """The pooling, by its arrays and what is said."""
  class_token = "cls" in arrays
  if "MAPHead_0/probe" in arrays:
    if class_token:
      raise ValueError(
        f"{facts.path}: a class token beside an attention-pooling head; no "
        "model here has both"
      )
    facts.agree("pool", "map", "the file has an attention-pooling head")
    return pooling.Map()
  if class_token:
    facts.add("assumed, as it has a class token", {"pool": "tok"})
  pool = facts.get("pool", "gap")
  if pool == "gap":
    return pooling.Gap(class_token)
  if pool == "tok" and class_token:
    return pooling.ClassToken()
  lacks = {"map": "no attention-pooling head", "tok": "no class token"}
  raise ValueError(
    f"{facts.path}: pool is {pool!r} ({facts.origins['pool']}), but "
    + (
      f"the file has {lacks[pool]}"
      if pool in lacks
      else "only 'tok', 'gap' and 'map' are known here"
    )
  )


def gelu(facts: Facts) -> str:
  """'tanh' or 'exact'."""
  gelu = facts.get("gelu")
  if gelu not in ("tanh", "exact"):
    raise ValueError(
      f"{facts.path}: gelu is {gelu!r} ({facts.origins['gelu']}): only 'tanh' "
      "and 'exact' are known here"
    )
  return gelu


def per_channel(name: str, facts: Facts) -> tuple[float, ...]:
  """Numbers of the channels, one where all are equal."""
  values = facts.get(name, (0.5,))
  # So that equal models compare equal.
  return values[:1] if len(set(values)) == 1 else values


def required(arrays, facts: Facts, name: str, rank: int):
  """An array that every ViT has.

  Raises:
    ValueError: it is missing or has another rank.
  """
  if name not in arrays:
    held = f", such as {listed(sorted(arrays)[:3])}" if arrays else ""
    raise ValueError(
      f"{facts.path}: no array {name}, which every ViT has; it holds "
      f"{len(arrays)} arrays{held}"
    )
  return of_rank(arrays, name, rank, facts.path)


def of_blocks(arrays) -> dict:
  """Options of the blocks, by the names of their arrays."""
  # A pooling head's attention has none of the options.
  in_blocks = [name for name in arrays if name.startswith(BLOCKS)]

  def has(part):
    return any(part in name for name in in_blocks)

  return dict(
    layer_scale=1e-5 if has("/LayerScale_0/") else None,
    qk_norm=has("/query_ln/"),
    qkv_bias=has("/query/bias"),
    proj_bias=has("/out/bias"),
    gated_mlp=has("/Dense_gate/"),
    rms_norm=has("/LayerNorm_0/scale") and not has("/LayerNorm_0/bias"),
  )
