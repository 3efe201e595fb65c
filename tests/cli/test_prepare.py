"""The command, as a user runs it: folders, archives, kills and full disks."""

import importlib.util
import io
import pathlib
import re
import signal
import tarfile

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from flexivit_jax.cli import prepare
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.data.sources.image_folder import ImageFolder
from flexivit_jax.data.sources.tfds import Tfds

SPLITS = {"train": 12, "test": 5}
CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def folder(tmp_path):
  """PATH/SPLIT/CLASS/*: JPEG and PNG files of several sizes."""
  root = tmp_path / "animals"
  rng = np.random.default_rng(0)
  for split, count in SPLITS.items():
    for i in range(count):
      directory = root / split / CLASSES[i % 3]
      directory.mkdir(parents=True, exist_ok=True)
      pixels = rng.integers(0, 256, (8 + i, 9, 3), np.uint8)
      name = f"{i}.{('png', 'jpg')[i % 2]}"
      Image.fromarray(pixels).save(directory / name)
  return root


@pytest.fixture
def run(capsys):
  """Runs the command in this process; returns the lines that it printed."""

  def call(*arguments):
    prepare.main([str(a) for a in arguments])
    return capsys.readouterr().out.splitlines()

  return call


def pack(folder, path, *, shuffled=False):
  mode = "w:gz" if path.suffix == ".gz" else "w"
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  if shuffled:
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
  with tarfile.open(path, mode) as tar:
    for file in files:
      tar.add(file, file.relative_to(folder.parent))
  return path


def rows(source):
  return [
    (source.image(i).tobytes(), source.label(i)) for i in range(len(source))
  ]


def opened(data_dir, dataset="animals", split="train"):
  return Tfds(dataset, split, str(data_dir)).open()


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_folder_is_read_back_as_the_folder(run, folder, tmp_path):
  data = tmp_path / "data"
  lines = run(folder, f"--data_dir={data}")
  for split in SPLITS:
    its, source = (
      ImageFolder(str(folder), split).open(),
      opened(data, split=split),
    )
    assert source.classes == its.classes == CLASSES
    assert rows(source) == rows(its)
    assert [source.size(i) for i in range(len(its))] == [
      its.size(i) for i in range(len(its))
    ]
    # The files' own bytes.
    assert [source._read(i)[0] for i in range(len(its))] == [
      (folder / split / path).read_bytes() for path in its.paths
    ]
    # So are the same slices.
    part = f"{split}[:40%]"
    assert rows(opened(data, split=part)) == rows(
      ImageFolder(str(folder), part).open()
    )
  assert lines[0] == (
    f"{folder}: SPLIT/CLASS/FILE, 5 test, 12 train images of 3 classes: cat, "
    "dog, eel"
  )
  target = data / "animals" / "1.0.0"
  assert re.fullmatch(
    rf"wrote {re.escape(str(target))}: test, 5 images of 3 classes, "
    r"\d+\.\d KiB in 1 shard",
    lines[1],
  )
  assert lines[3:] == [
    f'{key}.source=dict(name="tfds", dataset="animals", split="{key}", '
    f'data_dir="{data}")'
    for key in ("test", "train")
  ]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_an_archive_is_the_folder(run, folder, tmp_path, suffix):
  run(folder, f"--data_dir={tmp_path / 'a'}")
  archive = pack(folder, tmp_path / f"animals{suffix}")
  run(archive, f"--data_dir={tmp_path / 'b'}")
  first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
  assert len(first) == 6
  assert first == second


def test_an_archive_keeps_its_order(run, folder, tmp_path):
  archive = pack(folder, tmp_path / "animals.tar", shuffled=True)
  run(archive, f"--data_dir={tmp_path / 'data'}")
  for split in SPLITS:
    its = ImageFolder(str(folder), split).open()
    found = rows(opened(tmp_path / "data", split=split))
    assert found != rows(its)
    assert sorted(found) == sorted(rows(its))


def test_names_versions_and_splits(run, folder, tmp_path):
  data = tmp_path / "data"
  lines = run(
    folder / "test",
    f"--data_dir={data}",
    "--name=mine/small:1.2.0",
    "--split=validation",
  )
  assert lines[-1] == (
    'validation.source=dict(name="tfds", dataset="mine/small:1.2.0", '
    f'split="validation", data_dir="{data}")'
  )
  assert len(opened(data, "mine/small", "validation")) == SPLITS["test"]
  lines = run(folder, f"--data_dir={data}", "--split=test", "--name=part")
  assert [line for line in lines if line.startswith("wrote")] == [lines[1]]
  assert len(opened(data, "part", "test")) == SPLITS["test"]


def test_a_class_that_a_split_lacks_is_noted(run, folder, tmp_path):
  for path in (folder / "test" / "dog").iterdir():
    path.unlink()
  (folder / "notes.txt").touch()
  lines = run(folder, f"--data_dir={tmp_path / 'data'}")
  assert lines[1:3] == [
    "note: split test has no image of dog",
    "note: other files are left out: 1 .txt",
  ]
  # Labels mean the same in both splits.
  source = opened(tmp_path / "data", split="test")
  assert {source.label(i) for i in range(len(source))} == {0, 2}


def test_as_a_process_without_tensorflow(command, folder, tmp_path):
  code = (
    "import sys; from flexivit_jax.cli import prepare; prepare.main(); "
    "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
  )
  done = command("-c", code, folder, TFDS_DATA_DIR=str(tmp_path / "data"))
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""  # no bar in a file
  assert len(opened(tmp_path / "data")) == SPLITS["train"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
def test_a_bad_image_is_named_or_left_out(command, folder, tmp_path, suffix):
  name, source = "train/cat/0.png", folder
  path = folder / name
  path.write_bytes(path.read_bytes()[:50])
  title = str(path)
  if suffix:
    source = pack(folder, tmp_path / "animals.tar.gz")
    title = f"{source}:animals/{name}"
  data = tmp_path / "data"
  arguments = ("-m", "flexivit_jax", "prepare", source, f"--data_dir={data}")
  done = command(*arguments)
  assert done.returncode == 1
  assert re.fullmatch(
    rf"error: {re.escape(title)}: cannot decode this image: .*; mend it, or "
    r"leave it out: --on_bad_image skip\n",
    done.stderr,
  )
  assert contents(data) == {}
  done = command(*arguments, "--on_bad_image=skip")
  assert done.returncode == 0, done.stderr
  assert f"\nskipped: {title}: cannot decode this image: " in done.stdout
  whole = ImageFolder(str(folder)).open()
  good = [i for i, p in enumerate(whole.paths) if f"train/{p}" != name]
  expected = [(whole.image(i).tobytes(), whole.label(i)) for i in good]
  assert rows(opened(data)) == expected


def test_nothing_but_bad_images(run, tmp_path):
  (tmp_path / "in" / "cat").mkdir(parents=True)
  (tmp_path / "in" / "dog").mkdir()
  for name in ("cat", "dog"):
    (tmp_path / "in" / name / "1.jpg").write_bytes(b"<html>")
  arguments = (tmp_path / "in", f"--data_dir={tmp_path / 'data'}")
  with pytest.raises(Fault, match=r"none of 2 images is good: .*cat/1\.jpg: "):
    run(*arguments, "--on_bad_image=skip")
  assert contents(tmp_path / "data") == {}


def test_damage_that_comes_after_the_listing_leaves_nothing(
  run, folder, tmp_path, monkeypatch
):
  archive = pack(folder, tmp_path / "animals.tar.gz")

  def damage(*_):
    archive.write_bytes(archive.read_bytes()[:-2000])

  monkeypatch.setattr(prepare.prepare_lib, "check_room", damage)
  with pytest.raises(Fault, match="not a whole tar archive"):
    run(archive, f"--data_dir={tmp_path / 'data'}")
  assert contents(tmp_path / "data") == {}


KILL = """
import os, signal, sys
from flexivit_jax.checkpoints import manifest
from flexivit_jax.cli import errors, prepare
from flexivit_jax.data.prepare import tfds_writer

def kill(*_):
  os.kill(os.getpid(), signal.{signal})

records = 0

def write(split, record):
  global records
  records += 1
  if records == 7:
    kill()
  original(split, record)

original = tfds_writer._Split.write
if "{moment}" == "record":
  tfds_writer._Split.write = write
elif "{moment}" == "metadata":
  tfds_writer._write_json = kill
else:
  manifest.check_free = kill
errors.run(prepare.main)
"""


@pytest.mark.parametrize("moment", ["record", "metadata", "rename"])
def test_kill_9_leaves_nothing_that_looks_finished(
  command, run, folder, tmp_path, moment
):
  data = tmp_path / "data"
  arguments = (folder, f"--data_dir={data}")
  code = KILL.format(signal="SIGKILL", moment=moment)
  done = command("-c", code, *arguments)
  assert done.returncode == -signal.SIGKILL
  left = next((data / "animals").iterdir())
  assert re.fullmatch(r"1\.0\.0\.\w+\.unfinished", left.name)
  with pytest.raises(ValueError, match="'animals' is not prepared in "):
    opened(data)
  # The same command again writes all of it, and names what is left.
  lines = run(*arguments)
  assert lines[0] == (
    f"note: {left} is of a preparation under way, or one that was killed"
  )
  assert rows(opened(data)) == rows(ImageFolder(str(folder)).open())


def test_ctrl_c_leaves_nothing(command, folder, tmp_path):
  code = KILL.format(signal="SIGINT", moment="record")
  done = command("-c", code, folder, f"--data_dir={tmp_path / 'data'}")
  assert (done.returncode, done.stderr) == (130, "interrupted\n")
  assert contents(tmp_path / "data") == {}


def test_a_disk_that_is_too_small(command, folder, small_disk):
  disk = small_disk(100)
  done = command("-m", "flexivit_jax", "prepare", folder, f"--data_dir={disk}")
  assert done.returncode == 1
  assert re.fullmatch(
    rf"error: {disk}: the dataset takes 26\d\.\d KiB, and 100\.0 KiB are free: "
    "free some space, or give another --data_dir\n",
    done.stderr,
  )
  assert contents(disk) == {}


def test_a_disk_that_fills_up(command, folder, small_disk):
  # As if another process wrote meanwhile.
  code = (
    "from flexivit_jax.cli import errors, prepare; "
    "prepare.prepare_lib.check_room = lambda *_: None; "
    "errors.run(prepare.main)"
  )
  disk = small_disk(100)
  done = command("-c", code, folder, f"--data_dir={disk}")
  assert done.returncode == 1
  assert re.fullmatch(
    rf"error: {disk}/animals/1\.0\.0: No space left on device while it was "
    r"written, and what was written is removed: free 26\d\.\d KiB, or give "
    "another --data_dir\n",
    done.stderr,
  )
  assert contents(disk) == {}


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    (("{tmp}/none",), "IN: {tmp}/none: no such file or directory"),
    (
      ("cifar10:3.0.2",),
      "IN: {cwd}/cifar10:3.0.2: no such file or directory; did you mean "
      "tfds:cifar10:3.0.2?",
    ),
    (
      ("{in}", "--name=../x"),
      "--name: dataset '../x': give a name of TFDS such as 'cifar10', "
      "'imagenet2012:5.1.0' or 'my_set/config'",
    ),
    (("{in}", "--manual_dir=x"), "--manual_dir is for tfds:NAME only"),
    (
      ("{in}", "--split=val"),
      "IN: there is no split 'val': take test, train",
    ),
    (
      ("{in}", "--layout=class"),
      "IN: there are several directories above CLASS/FILE, test, train: "
      "prepare each by itself",
    ),
    (("tfds:../x",), "IN: dataset '../x': give a name of TFDS such as "
     "'cifar10', 'imagenet2012:5.1.0' or 'my_set/config'"),
    (
      ("tfds:cifar10", "--split=train"),
      "--split is for folders and archives only",
    ),
  ],
)  # fmt: skip
def test_refusals(run, folder, tmp_path, arguments, text):
  places = {"in": folder, "tmp": tmp_path, "cwd": pathlib.Path.cwd()}
  with pytest.raises(ConfigError) as caught:
    run(
      *(a.format(**places) for a in arguments),
      f"--data_dir={tmp_path / 'data'}",
    )
  assert str(caught.value) == text.format(**places)
  assert not (tmp_path / "data").exists()


def test_what_is_there_is_not_written_over(run, folder, tmp_path):
  arguments = (folder, f"--data_dir={tmp_path / 'data'}")
  run(*arguments)
  before = contents(tmp_path / "data")
  with pytest.raises(ConfigError) as caught:
    run(*arguments)
  assert str(caught.value) == (
    f"{tmp_path}/data/animals/1.0.0 exists and is not written over: remove it, "
    "or give another version, --name animals:VERSION"
  )
  assert contents(tmp_path / "data") == before
  run(*arguments, "--name=animals:1.0.1")
  assert opened(tmp_path / "data").name(0).startswith("animals/1.0.1 train ")


class PreparedByTfds(tensorflow_datasets.core.GeneratorBasedBuilder):
  """Registered by its name, as the stock datasets are."""

  VERSION = tensorflow_datasets.core.Version("1.2.0")

  def _info(self):
    features = {
      "image": tensorflow_datasets.features.Image(),
      "label": tensorflow_datasets.features.ClassLabel(names=CLASSES),
    }
    return tensorflow_datasets.core.DatasetInfo(
      builder=self,
      features=tensorflow_datasets.features.FeaturesDict(features),
    )

  def _split_generators(self, _):
    return {
      "train": self._generate_examples(0),
      "test": self._generate_examples(-1),
    }

  def _generate_examples(self, label):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    yield from ((i, {"image": buffer.getvalue(), "label": label}) for i in "ab")


@pytest.fixture
def tensorflow(monkeypatch):
  """As if TensorFlow were there: the builder above needs none."""
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name: object() if name == "tensorflow" else find_spec(name),
  )


def test_a_dataset_of_tfds(run, tensorflow, tmp_path):
  name = "prepared_by_tfds:1.2.0"
  lines = run(f"tfds:{name}", f"--data_dir={tmp_path}")
  assert lines[-3:] == [
    f"wrote {tmp_path}/prepared_by_tfds/1.2.0: train, 2 images of 3 classes, "
    "128.0 KiB in 1 shard",
    "note: split 'test' of prepared_by_tfds/1.2.0 has no labels: its splits "
    "are 'train', 'test'",
    f'train.source=dict(name="tfds", dataset="{name}", split="train", '
    f'data_dir="{tmp_path}")',
  ]
  assert len(opened(tmp_path, name)) == 2
  # There it is.
  assert run(f"tfds:{name}", f"--data_dir={tmp_path}")[-1] == lines[-1]


def test_what_tfds_cannot_prepare(run, tensorflow, tmp_path):
  with pytest.raises(Fault, match=r"^TFDS cannot prepare no_such_set: Dataset"):
    run("tfds:no_such_set", f"--data_dir={tmp_path}")


def test_without_tensorflow(command, tmp_path):
  code = (
    "import importlib.util; importlib.util.find_spec = lambda name: None; "
    "from flexivit_jax.cli import errors, prepare; errors.run(prepare.main)"
  )
  done = command("-c", code, "tfds:cifar10", f"--data_dir={tmp_path}")
  assert done.returncode == 1
  assert done.stderr == (
    "error: TFDS prepares cifar10 with TensorFlow (training needs none): "
    'pip install "flexivit_jax[tf]"\n'
  )
