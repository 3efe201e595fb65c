"""Numbers, configs and files of an earlier version of this code.

tests/golden_records/make.py wrote them and says how to write them anew.
"""

import shutil

import numpy as np
import pytest

from tests import runs
from tests.golden_records import access, make
from tests.golden_records.cases import CASES, DIRECTORY, RESUMED

# Programs of another kind of CPU add in another order: of numbers of about 1
# float32 keeps 6e-8, and sums of some thousand lose two digits of that. A
# changed seed, draw or initial scale moves them by more than 1e-2.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  """Records name files from the root."""
  monkeypatch.chdir(runs.ROOT)


def assert_close(found, recorded):
  """Equal names, and numbers that are close."""
  assert found.keys() == recorded.keys()
  for name in recorded:
    np.testing.assert_allclose(
      found[name], recorded[name], **CLOSE, err_msg=name
    )


def assert_same_parameters(found, recorded):
  """Equal paths, shapes and types; sums and first values are close."""
  assert {k: x[:2] for k, x in found.items()} == {
    k: x[:2] for k, x in recorded.items()
  }
  for path, (shape, _, *numbers) in recorded.items():
    # A sum's rounding grows with what is summed, not with the sum.
    of_sum = np.sqrt(np.prod(shape) * numbers[1]) + 1
    scale = np.array([of_sum] + [1.0] * (len(numbers) - 1))
    np.testing.assert_allclose(
      found[path][2:] / scale, numbers / scale, **CLOSE, err_msg=path
    )


def assert_same_rows(found, recorded):
  assert len(found) == len(recorded)
  for row, before in zip(found, recorded):
    assert_close(row, before)


@pytest.mark.parametrize("name", CASES)
def test_a_config_file_means_what_it_meant(name):
  recorded = make.read(name)["config"]
  experiment = make.experiment(CASES[name])
  assert access.from_json(recorded) == experiment
  found = access.flat_json(access.to_json(experiment))
  for key, value in access.flat_json(recorded).items():
    if not key.startswith(access.RETIRED_KEYS):
      assert found[key] == value, key


@pytest.mark.parametrize("name", CASES)
def test_parameters_batches_and_outputs_are_as_recorded(name):
  recorded = make.read(name)
  found = make.record(CASES[name])
  assert_same_parameters(found["parameters"], recorded["parameters"])
  assert found["batches"] == recorded["batches"]
  assert found["loader"] == recorded["loader"]
  assert_close(found["loss"], recorded["loss"])
  assert_close(found.get("outputs", {}), recorded.get("outputs", {}))


@pytest.mark.parametrize("name", RESUMED)
def test_an_old_run_is_resumed_and_ends_as_it_did(name, tmp_path):
  workdir = tmp_path / name
  shutil.copytree(DIRECTORY / "resumable" / name, workdir)
  access.train_main(*make.arguments(RESUMED[name], workdir))
  found, recorded = make.resumed(workdir), make.read(f"resumed_{name}")
  assert_same_rows(found["rows"], recorded["rows"])
  assert_same_parameters(found["parameters"], recorded["parameters"])
  assert found["progress"] == recorded["progress"]


# Two in the fast tests, all in the slow ones.
QUICK = ("labels", "packed")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow)
    for x in runs.RUNS
  ],
)
def test_a_run_has_the_losses_that_it_had(name, trained):
  assert_same_rows(
    make.rows_of(trained(name)), make.read(f"run_{name}")["rows"]
  )


def test_the_comparison_sees_a_change():
  recorded = make.read("flexivit")
  path = "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
  for change in (("sum", 2), ("first value", 4)):
    changed = {k: list(x) for k, x in recorded["parameters"].items()}
    changed[path][change[1]] += 0.01 * np.prod(changed[path][0]) ** (
      change[0] == "sum"
    )
    with pytest.raises(AssertionError):
      assert_same_parameters(changed, recorded["parameters"])
  with pytest.raises(AssertionError):
    assert_close({"loss": 1.001}, {"loss": 1.0})
