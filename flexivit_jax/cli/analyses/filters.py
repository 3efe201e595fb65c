"""filters: the patch embedding's filters, resized to every patch size."""

from flexivit_jax.analysis import filters
from flexivit_jax.cli import checkpoint_arguments
from flexivit_jax.cli.analyses import contract
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import align
from flexivit_jax.nn.encoder import MAX_SIDE
from flexivit_jax.nn.stems.stem import NoStem

SHOW = {
  "components": filters.Choice(
    filters.principal_components, True, "principal component at each size"
  ),
  "stored_components": filters.Choice(
    filters.principal_components, False, "principal component as stored"
  ),
  "strongest": filters.Choice(
    filters.strongest, False, "filter, by its norm as stored"
  ),
}


# A column each; ViT's figure has 28.
MOST = 32


def add_arguments(parser) -> None:
  checkpoint_arguments.add_checkpoint(parser)
  add = parser.add_argument
  add(
    "--patch_sizes",
    help="8,16x12: a row of images for each; default: the stored size, and "
    "those that it was trained at",
  )
  add(
    "--show",
    choices=tuple(SHOW),
    default="components",
    help="principal components of all filters, of each size's own or of the "
    "stored ones at each size, or the filters of the largest norm; default: "
    "components",
  )
  add(
    "--count", type=int, default=12, help=f"of them, 1 to {MOST}; default: 12"
  )


def run(args) -> Findings:
  if not 1 <= args.count <= MOST:
    raise ConfigError(f"--count {args.count}: give 1 to {MOST}")
  sizes = None
  if args.patch_sizes is not None:
    with config_errors_at("--patch_sizes"):
      sizes = [parse_hw(text) for text in args.patch_sizes.split(",")]
    if max(map(max, sizes)) > MAX_SIDE:
      raise ConfigError(
        f"--patch_sizes {args.patch_sizes}: give patches of at most {MAX_SIDE} "
        "pixels"
      )
  checkpoint = contract.read(args)
  model, spec = checkpoint.model, checkpoint.spec
  if not isinstance(model.stem, NoStem):
    raise ConfigError(
      f"--checkpoint {args.checkpoint}: its patch embedding is of the features "
      "of a convolutional stem, which are no pixels to draw: give a model "
      "without a stem"
    )
  if sizes is None:
    sizes = [model.kernel_hw, *spec.trained_sizes]
  choice = SHOW[args.show]
  with config_errors_at("--count"):
    found = filters.filters(
      checkpoint.arrays["embedding/kernel"],
      tuple(dict.fromkeys(sizes)),
      choice,
      n=args.count,
      antialias=model.kernel_antialias,
    )
  names = [f"{h}x{w}" for h, w in found.patch_sizes]
  rows = [
    (name, f"{norm:.3f}", f"{grey:.3f}", f"{100 * share:.1f} %")
    for name, norm, grey, share in zip(
      names, found.norms, found.grey, found.shares.sum(axis=1), strict=True
    )
  ]
  shown = f"share of {args.count}"
  return Findings(
    figures={"filters": filters.draw(found, name=choice.name)},
    numbers={
      "mixtures": found.mixtures,
      "shares": found.shares,
      "norms": found.norms,
      "grey": found.grey,
      **{f"tiles_{k}": x for k, x in zip(names, found.tiles, strict=True)},
    },
    lines=(
      align([("patch", "norm", "response to grey", shown), *rows]),
      "norm and response to grey: 1 is the stored kernel's; share: of the "
      + ("squared norm" if args.show == "strongest" else "variance"),
    ),
  )


ANALYSIS = Analysis(
  name="filters",
  help="filters of the patch embedding at every patch size",
  add_arguments=add_arguments,
  run=run,
)
