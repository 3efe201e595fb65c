"""flexivit_jax.cli.sample, in this process."""

import json
import re
import types

import numpy as np
import pytest
from PIL import Image

import flexivit_jax
import train
from benchmarks import sample_metrics
from flexivit_jax.checkpoints import export, save
from flexivit_jax.cli import sample as sample_lib
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.tasks import sampler
from flexivit_jax.tasks.diffusion import Diffusion

SCRIPT = "flexivit_jax.cli.sample"
TRAIN = (
  "--config=configs/dit_digits.py:smoke",
  "--config.task.sampler.steps=2",
  "--config.model.size={'name':'custom','width':16,'depth':1,'mlp_dim':16,"
  "'num_heads':2}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished run of three steps."""
  workdir = tmp_path_factory.mktemp("dit") / "run"
  train.main([*TRAIN, f"--workdir={workdir}"])
  return workdir


@pytest.fixture
def sample(here, run, tmp_path):
  """The command on the run, to tmp_path / "out"."""

  def call(*arguments):
    output = f"--output={tmp_path / 'out'}"
    return here(SCRIPT, f"--checkpoint={run}", output, *arguments)

  return call


def _images(directory):
  return np.load(directory / "samples.npz")


@pytest.mark.slow
def test_writes_rows_of_classes(sample, tmp_path):
  done = sample("--classes=3,7", "--count=3")
  assert done.returncode == 0, done.stderr
  out = tmp_path / "out"
  assert f"wrote {out / 'samples.png'} and samples.npz, 6 images" in done.stdout
  found = _images(out)
  assert found["images"].shape == (6, 8, 8, 3)
  assert found["images"].dtype == np.uint8
  assert found["labels"].tolist() == [3, 3, 3, 7, 7, 7]
  assert found["classes"].tolist() == list("0123456789")
  # Each pixel is shown as 8: 3 columns and 2 rows of 64, and gaps of 4.
  assert Image.open(out / "samples.png").size == (3 * 68 + 4, 2 * 68 + 4)
  record = json.loads((out / "samples.json").read_text())
  assert (record["sampler"]["steps"], record["sampler"]["guidance"]) == (2, 1.5)
  assert record["patch_size"] == "2"
  assert "moving average of the parameters" in done.stdout


@pytest.mark.slow
def test_an_image_depends_on_its_seed_class_and_number_alone(sample, tmp_path):
  def images(*arguments):
    done = sample(*arguments)
    assert done.returncode == 0, done.stderr
    return _images(tmp_path / "out")["images"].astype(int)

  # The model has learned nothing, so samples are noise; it is enough.
  whole = images("--classes=3,7", "--count=4", "--steps=20")
  part = images("--classes=7", "--count=2", "--steps=20", "--batch_size=1")
  # Other products may round another way: one step of 255.
  assert np.abs(part - whole[4:6]).max() <= 1
  other = images("--classes=7", "--count=2", "--steps=20", "--seed=1")
  assert np.abs(other - part).max() > 10
  noisy = images("--classes=7", "--count=2", "--steps=20", "--eta=1")
  assert np.abs(noisy - part).max() > 10


@pytest.mark.slow
def test_a_classifier_judges(sample, run, trained, tmp_path):
  done = sample("--count=2")
  assert done.returncode == 0, done.stderr
  judged = sample_metrics.judge(
    run, tmp_path / "out" / "samples.npz", trained("labels"), "6"
  )
  assert (judged["generated"], judged["copies"]["training"]) == (20, 64)
  assert list(judged["asked_share_by_class"]) == list(range(10))
  assert judged["frechet_distance"] > 0
  # Noise is nearer to no training image than a digit is.
  assert 0 < judged["copies"]["real_nearest"] < judged["copies"]["nearest"]


@pytest.mark.slow
def test_refusals(sample, run, trained, here, tmp_path):
  for argument, text in (
    ("--count=0", "--count 0: give 1 to 1048576"),
    ("--classes=3,x", "--classes has 'x': give names of 0, 1, 2, 3"),
    ("--eta=2", "--eta: eta is 2.0: give 0 to 1"),
    ("--steps=2000", "--steps: steps is 2000, and the noise has 1000 times"),
    ("--patch_size=3", "--patch_size: an image of 8x8 pixels is not a whole"),
  ):
    done = sample(argument)
    assert done.stderr.startswith(f"error: {text}")
    assert done.returncode == 2
  out, classifier = tmp_path / "out", trained("labels")
  done = here(SCRIPT, f"--checkpoint={classifier}", f"--output={out}")
  assert f"--checkpoint {classifier} learned no diffusion" in done.stderr
  assert not out.exists()


@pytest.mark.slow
def test_other_commands_say_what_such_a_run_is_for(run, here, tmp_path):
  vit, images = flexivit_jax.load(run), np.zeros((1, 8, 8, 3), np.uint8)
  assert "conditioned by adaLN-Zero, GELU tanh, eps 1e-06" in str(vit)
  text = (
    f"images: python -m flexivit_jax sample --checkpoint {run} --output DIR"
  )
  sizes = dict(patch_sizes=[2], image_hw=(8, 8))
  for call in (
    lambda: vit(images),
    lambda: vit.features(images),
    lambda: save.save(vit, tmp_path / "x.npz", "big_vision"),
    lambda: export.export(vit, tmp_path / "x", **sizes),
  ):
    with pytest.raises(ValueError, match=re.escape(text)):
      call()
  picture, own = tmp_path / "x.png", f"--checkpoint={run}"
  Image.fromarray(images[0]).save(picture)
  for name, *arguments in (
    ("few_shot", own),
    ("predict", own, picture),
    ("analysis", "attention-distance", own, "--data=digits"),
    ("convert", run, tmp_path / "y.npz", "--format=big_vision"),
  ):
    done = here(f"flexivit_jax.cli.{name}", *arguments)
    assert done.returncode == 2
    assert text in done.stderr


def test_classes_by_number_by_name_and_all():
  names, task = ("cat", "dog", "7"), Diffusion(num_classes=3)
  for text, want in (
    ("all", [0, 1, 2]),
    ("2,cat", [2, 0]),
    ("dog,0", [1, 0]),
    ("7", [2]),  # a name before a number
  ):
    assert sample_lib.choose_classes(text, names, task) == want
  assert sample_lib.choose_classes("all", names, Diffusion(num_classes=0)) == [
    0
  ]
  with pytest.raises(ConfigError, match="--classes has 'dog' twice: --count"):
    sample_lib.choose_classes("1,dog", names, task)
  with pytest.raises(ConfigError, match=r"--classes '0': .*: leave it out"):
    sample_lib.choose_classes("0", names, Diffusion(num_classes=0))


def test_guidance_needs_a_model_that_learned_without_classes():
  arguments = types.SimpleNamespace(steps=None, guidance=3.0, eta=None)
  task = Diffusion(num_classes=3, sampler=sampler.Sampler(steps=7))
  found = sample_lib.choose_sampler(arguments, task)
  assert found == sampler.Sampler(steps=7, guidance=3.0)
  task = Diffusion(num_classes=3, class_dropout=0.0)
  with pytest.raises(ConfigError, match=r"--guidance 3: .* --guidance 1"):
    sample_lib.choose_sampler(arguments, task)
