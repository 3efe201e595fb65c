import pytest

from flexivit_jax.devices import processes
from flexivit_jax.devices.processes import ALONE


class Others:
  """Peers that say what they are told to."""

  index = 0

  def __init__(self, *values):
    self.values = values
    self.count = 1 + len(values)

  def gather(self, value):
    return [value, *self.values]


def test_the_same_is_accepted():
  processes.check_same(Others({"a": 1}, {"a": 1}), {"a": 1})
  processes.check_same(ALONE, {"a": object()})  # nobody asks


def test_the_first_name_that_differs_is_told():
  with pytest.raises(processes.DisagreementError) as caught:
    processes.check_same(
      Others({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": "x"}),
      {"a": 1, "b": 2, "c": 3},
    )
  assert str(caught.value) == (
    "b is 2 in process 0 and 'x' in process 2: start all processes with the "
    "same command, code and data"
  )


def test_the_code_and_what_computes_are_described():
  found = processes.describe_program({"seed": 1})
  assert found["config.seed"] == 1
  assert len(found["the code of flexivit_jax"]) == 16
  assert found["the version of jax"].count(".") == 2


def test_the_digest_is_of_names_and_contents(tmp_path):
  (tmp_path / "a.py").write_text("x = 1\n")
  first = processes.digest(tmp_path)
  assert processes.digest(tmp_path) == first
  (tmp_path / "a.py").write_text("x = 2\n")
  changed = processes.digest(tmp_path)
  (tmp_path / "a.py").write_text("x = 1\n")
  (tmp_path / "a.py").rename(tmp_path / "b.py")
  assert len({first, changed, processes.digest(tmp_path)}) == 3
