"""attention-maps: what one token attends to, over the image, by head."""

import functools
import re

from flexivit_jax.analysis import attention_maps as attention_maps_lib
from flexivit_jax.analysis.activations import check_block
from flexivit_jax.analysis.attention_maps import (
  Patch,
  attention_maps,
  check_patch,
  check_query,
)
from flexivit_jax.cli.analyses import images
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import size_name
from flexivit_jax.nn import pooling

NAMES = ("attentions", "probe", "segments")


def add_arguments(parser) -> None:
  images.add_arguments(
    parser, images=8, most=images.MOST_DRAWN, several_sizes=False
  )
  add = parser.add_argument
  add(
    "--query",
    help="class, probe (of the MAP head), or ROW,COL of a patch, from 0; "
    "default: what the head reads by, else a patch near the middle",
  )
  add(
    "--block",
    type=int,
    default=-1,
    help="from 0; -1 is the last; not for the probe; default: %(default)s",
  )


def run(args) -> Findings:
  query = parse_query(args.query)
  subject = images.choose(args)
  model, (size,) = subject.vit.model, subject.sizes
  pixels = subject.pixels(size)
  grids = subject.grids(size)
  if query is None:
    query = usual_query(model, grids)
  with config_errors_at("--query"):
    check_query(model, query)
    if isinstance(query, Patch):
      check_patch(query, grids)
  with config_errors_at("--block"):
    check_block(model, args.block)
  compute = functools.partial(
    attention_maps, model, query=query, block=args.block
  )
  maps = subject.of_images(compute, size, NAMES)
  patch = query if isinstance(query, Patch) else None
  of = f"patch {patch.row},{patch.col}" if patch else f"the {query} token"
  where = f"block {args.block % model.size.depth}"
  if query == "probe":
    of, where = "the probe", "the MAP head"
  title = f"Attention of {of} in {where}, patches of {size_name(size)} px"
  return Findings(
    figures={
      "attention_maps": attention_maps_lib.draw_maps(pixels, maps, title, patch)
    },
    numbers={f"image_{number}": x for number, x in zip(subject.numbers, maps)},
    lines=(str(subject), title),
  )


def parse_query(text) -> str | Patch | None:
  """ "class", "probe", or "3,4" as a patch."""
  if text is None or text in ("class", "probe"):
    return text
  if not re.fullmatch(r"\d{1,9},\d{1,9}", text):
    raise ConfigError(
      f"--query {text!r}: give class, probe, or row and column of a patch, "
      "3,4 say"
    )
  return Patch(*map(int, text.split(",")))


def usual_query(model, grids) -> str | Patch:
  """What the head reads by; where it averages, a patch near the middle that
  all images have."""
  match model.pool:
    case pooling.ClassToken():
      return "class"
    case pooling.Map():
      return "probe"
  rows, cols = (min(sides) for sides in zip(*grids))
  return Patch(rows // 2, cols // 2)


ANALYSIS = Analysis(
  name="attention-maps",
  help="attention of the class token, the probe or a patch, over the image",
  add_arguments=add_arguments,
  run=run,
)
