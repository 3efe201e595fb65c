"""Prepares images for training: ArrayRecord files in the layout of TFDS.

  flexivit prepare PATH/images --data_dir DIR
  flexivit prepare PATH/images.tar.gz --name mine:1.1.0
  flexivit prepare tfds:cifar10

IN is a folder or a tar archive (plain or gzip) of images in SPLIT/CLASS/FILE
or CLASS/FILE; or tfds:NAME, a dataset that TFDS downloads and prepares, with
TensorFlow. The last lines are the sources to train on. See docs/data.md.
"""

import errno
import importlib.util
import json
import pathlib
import re

from flexivit_jax.checkpoints import manifest
from flexivit_jax.cli import arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.core.errors import ConfigError, Fault, config_errors_at
from flexivit_jax.core.text import cut, format_bytes
from flexivit_jax.data.prepare import archives
from flexivit_jax.data.prepare import layout as layout_lib
from flexivit_jax.data.prepare import prepare as prepare_lib
from flexivit_jax.data.sources import tfds

_ARCHIVE = re.compile(r"\.(tar(\.\w+)?|tgz)$", re.IGNORECASE)


def main(argv=None):
  parser = arguments.parser(__doc__, "prepare")
  add = parser.add_argument
  add("source", metavar="IN", help="a folder, a tar archive, or tfds:NAME")
  add(
    "--data_dir",
    help="where it is written, in NAME/VERSION; default: $TFDS_DATA_DIR, or "
    "~/tensorflow_datasets",
  )
  add("--name", help="NAME or NAME:VERSION; default: as IN, version 1.0.0")
  add(
    "--layout",
    choices=tuple(layout_lib.FORMS),
    help="SPLIT/CLASS/FILE or CLASS/FILE; default: the former where SPLIT is "
    "train, val, test or the like",
  )
  add(
    "--split",
    help="what the split is called where the paths name none, train say; else "
    "the only one to take",
  )
  add(
    "--on_bad_image",
    choices=("error", "skip"),
    help="whether an image that cannot be decoded ends it, or is left out; "
    "default: error",
  )
  add("--manual_dir", help="of tfds:NAME: where files to download by hand lie")
  args, _ = arguments.parse(parser, argv)
  if args.source.startswith("tfds:"):
    prepare_with_tfds(args)
  else:
    prepare(args)


def prepare(args) -> None:
  """Writes the images of a folder or an archive.

  Raises:
    ConfigError: IN or an option cannot be used, or the target is there.
    Fault: of the first bad image, a damaged archive, or a full disk.
  """
  store = open_store(args)
  title, (name, config, version) = chosen_name(args, store.path)
  root = tfds.data_root(args.data_dir)
  target = root / name / (config or "") / version
  check_target(target, title)
  with config_errors_at("IN"):
    listing = store.list()
    layout = layout_lib.find(listing.sizes, args.layout, args.split)
  # Told before the hours that it may take.
  print(
    "\n".join(prepare_lib.describe(store.path, listing, layout)), flush=True
  )
  need = prepare_lib.needed_bytes(listing, layout)
  prepare_lib.check_room(root, need)
  skipped = []

  def fill(directory):
    prepare_lib.fill(
      *(directory, name, version, store, layout),
      skip=args.on_bad_image == "skip",
      report=skipped.append,
    )

  try:
    manifest.make_directory(target, fill)
  except OSError as e:
    if e.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    raise Fault(
      f"{target}: {e.strerror} while it was written, and what was written is "
      f"removed: free {format_bytes(need)}, or give another --data_dir"
    ) from e
  for text in skipped:
    print(text)
  report(title, root, target, layout.splits())


def open_store(args) -> archives.Folder | archives.Archive:
  path = pathlib.Path(args.source).expanduser().absolute()
  if args.manual_dir:
    raise ConfigError("--manual_dir is for tfds:NAME only")
  if not path.exists():
    hint = ""
    if re.fullmatch(r"\w+([/:][\w.+-]+)*", args.source):
      hint = f"; did you mean tfds:{args.source}?"
    raise ConfigError(f"IN: {path}: no such file or directory{hint}")
  return archives.Folder(path) if path.is_dir() else archives.Archive(path)


def chosen_name(args, path) -> tuple[str, tuple[str, str | None, str]]:
  """What a config calls the dataset, and its name, config and version."""
  title = args.name
  if title is None:
    # TFDS has names of letters, digits and "_".
    bare = path.name if path.is_dir() else _ARCHIVE.sub("", path.name)
    title = re.sub(r"\W", "_", bare, flags=re.ASCII)
  with config_errors_at("--name"):
    name, config, version = tfds.parse_name(title)
  return title, (name, config, version or "1.0.0")


def check_target(target, title) -> None:
  if target.exists():
    raise ConfigError(
      f"{target} exists and is not written over: remove it, or give another "
      f"version, --name {title.partition(':')[0]}:VERSION"
    )
  for left in sorted(target.parent.glob(f"{target.name}.*.unfinished")):
    print(f"note: {left} is of a preparation under way, or one that was killed")


def prepare_with_tfds(args) -> None:
  """Has TFDS download and prepare a dataset.

  Raises:
    ConfigError: no name of TFDS, or an option of folders and archives.
    Fault: there is no TensorFlow, or TFDS failed.
  """
  dataset = args.source.removeprefix("tfds:")
  with config_errors_at("IN"):
    tfds.parse_name(dataset)
  for option in ("name", "layout", "split", "on_bad_image"):
    if getattr(args, option) is not None:
      raise ConfigError(f"--{option} is for folders and archives only")
  if importlib.util.find_spec("tensorflow") is None:
    raise Fault(
      f"TFDS prepares {dataset} with TensorFlow (training needs none): "
      'pip install "flexivit_jax[tf]"'
    )
  root = tfds.data_root(args.data_dir)
  # Late: it loads TensorFlow as soon as it needs it.
  import tensorflow_datasets

  download = tensorflow_datasets.download.DownloadConfig(
    manual_dir=args.manual_dir
  )
  try:
    builder = tensorflow_datasets.builder(
      dataset, data_dir=str(root), file_format="array_record"
    )
    builder.download_and_prepare(download_config=download)
  # From lost connections to assertions about files to download by hand.
  except Exception as e:
    text = cut(str(e).strip(), 1000)
    raise Fault(
      f"TFDS cannot prepare {dataset}: {type(e).__name__}: {text}"
    ) from e
  splits = {name: x.num_examples for name, x in builder.info.splits.items()}
  report(dataset, root, pathlib.Path(builder.data_dir), splits)


def report(dataset, root, target, splits) -> None:
  """Says what was written, as it is read back, and how to use it.

  Raises:
    Fault: none of the splits can be trained on.
  """
  lines, problems = [], []
  for split in splits:
    spec = tfds.Tfds(dataset, split, str(root))
    try:
      source = spec.open()
    except ValueError as e:
      problems.append(str(e))
      continue
    size = format_bytes(sum(shard.bytes for shard in source.shards))
    print(
      f"wrote {target}: {split}, {len(source)} images of "
      f"{len(source.classes)} classes, {size} in {len(source.shards)} "
      f"shard{'s' * (len(source.shards) > 1)}"
    )
    values = {"dataset": dataset, "split": split, "data_dir": str(root)}
    fields = (f"{k}={json.dumps(x)}" for k, x in values.items())
    key = {"test": "test", "val": "validation", "validation": "validation"}
    lines.append(
      f'{key.get(split, "train")}.source=dict(name="tfds", {", ".join(fields)})'
    )
  for problem in problems:
    print(f"note: {problem}")
  if not lines:
    raise Fault(f"{target} has no images with labels to train on")
  print("\n".join(lines))


if __name__ == "__main__":
  main_lib.run_renamed("prepare")
