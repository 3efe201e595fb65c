"""attention-share: what attention costs, against width and row length."""

import dataclasses

import numpy as np

from flexivit_jax.analysis import attention_distance
from flexivit_jax.analysis.attention_share import attention_share
from flexivit_jax.cli import checkpoint_arguments, data_arguments
from flexivit_jax.cli.analyses import images
from flexivit_jax.cli.analyses.contract import Analysis, Findings, read
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw, size_name
from flexivit_jax.core.text import align
from flexivit_jax.models import cost
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn.encoder import MAX_WIDTH, Size

# Tokens of a row.
LENGTHS = 2 ** np.linspace(2, 17, 121)
PRINTED = (16, 64, 256, 512, 1024, 4096, 16384, 65536)


def add_arguments(parser) -> None:
  add = parser.add_argument
  add(
    "--widths",
    default="192,384,768,1024,1664",
    help="of models whose MLPs are four times as wide; default: %(default)s",
  )
  add(
    "--checkpoint",
    help="a model to mark at its patch sizes: docs/checkpoints.md",
  )
  add("--step", type=int, help="of a run: which checkpoint; default: the best")
  add(
    "--resolution",
    help="240 or 240x320: of the images of --checkpoint; default: those of a "
    "run's test data",
  )
  add(
    "--patch_sizes",
    help="4,6,8x6: of --checkpoint; default: those that it was trained at",
  )
  checkpoint_arguments.add_facts(parser)


def run(args) -> Findings:
  curves = [_Curve.of_width(w) for w in _widths(args.widths)]
  marks, where = {}, ""
  if args.checkpoint is None:
    for name in ("step", "resolution", "patch_sizes"):
      if getattr(args, name) is not None:
        raise ConfigError(f"--{name} needs --checkpoint")
  else:
    checkpoint = read(args)
    own = _Curve.of_model(checkpoint.model)
    curves = [c for c in curves if c.label != own.label] + [own]
    curves.sort(key=lambda c: c.size.width)
    lengths, where = _rows(args, checkpoint)
    marks = {label: (l, float(own(l))) for label, l in lengths.items()}
  rows = [("tokens", *(c.label for c in curves))]
  rows += [(f"{l}", *(f"{100 * c(l):.1f} %" for c in curves)) for l in PRINTED]
  lines = [align(rows)]
  for label, (length, share) in marks.items():
    lines.append(f"{where}, {label}: {length} tokens, {100 * share:.1f} %")
  numbers = {"lengths": LENGTHS}
  numbers |= {c.label.replace(" ", "_"): c(LENGTHS) for c in curves}
  if marks:
    numbers["marks"] = np.array(list(marks.values()))
  shares = {c.label: c(LENGTHS) for c in curves}
  figure = attention_distance.draw_shares(LENGTHS, shares, marks, where)
  return Findings({"attention_share": figure}, numbers, tuple(lines))


@dataclasses.dataclass(frozen=True)
class _Curve:
  """Shares of a model's blocks by the length of a row."""

  label: str
  size: Size
  gated_mlp: bool = False

  @classmethod
  def of_width(cls, width):
    return cls(f"width {width}", Size(width, 1, 4 * width, 1))

  @classmethod
  def of_model(cls, model):
    label = f"width {model.size.width}"
    if model.gated_mlp or model.size.mlp_dim != 4 * model.size.width:
      gated = "gated " if model.gated_mlp else ""
      label += f" with {gated}MLP {model.size.mlp_dim}"
    return cls(label, model.size, model.gated_mlp)

  def __call__(self, length):
    return attention_share(length, self.size, gated_mlp=self.gated_mlp)


def _widths(text) -> list[int]:
  """ "192,384" as [192, 384]."""
  try:
    widths = list(dict.fromkeys(map(int, text.split(","))))
  except ValueError:
    raise ConfigError(
      f"--widths {text!r}: give widths of models, 192,384 say"
    ) from None
  for width in widths:
    if not 1 <= width <= MAX_WIDTH // 4:
      raise ConfigError(f"--widths {width}: give 1 to {MAX_WIDTH // 4}")
  return widths


def _rows(args, checkpoint) -> tuple[dict[str, int], str]:
  """Row lengths that a checkpoint meets, by name, and where."""
  model, run = checkpoint.model, checkpoint.spec.experiment
  if args.resolution is not None:
    with config_errors_at("--resolution"):
      image_hw = parse_hw(args.resolution)
  elif run is None or run.test is None:
    raise ConfigError(
      f"--resolution: {checkpoint.spec.path} does not say at which size of "
      "images to use it: give one, 240 say"
    )
  elif run.test.resolution is not None:
    rows = run.packing
    length = cost.packed_row_length(model, rows.row_length, rows.max_images)
    return {f"rows of {rows.row_length} patches": length}, "packed rows"
  else:
    with config_errors_at("config.test"):
      source = run.open(run.test)
    (first,), _ = images.read(source, run.test.transforms, 1, one_size=True)
    image_hw = first.shape[:2]
  sizes = images.choose_sizes(args, checkpoint)
  lengths = {}
  for size in sizes:
    with (
      config_errors_at("--patch_sizes"),
      data_arguments.offering("--resolution"),
    ):
      check_patch_size(model, image_hw, size)
    lengths[f"{size_name(size)} px"] = cost.row_length(model, image_hw, size)
  return lengths, f"images of {image_hw[0]}x{image_hw[1]} px"


ANALYSIS = Analysis(
  name="attention-share",
  help="attention's share of FLOPs against width and row length",
  add_arguments=add_arguments,
  run=run,
)
