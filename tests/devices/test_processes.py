import dataclasses

import pytest

from flexivit_jax.devices import processes
from flexivit_jax.devices.processes import ALONE, Connected


@dataclasses.dataclass(frozen=True)
class Others:
  """Processes that describe themselves as they are told to."""

  described: tuple
  index: int = 0

  @property
  def count(self):
    return 1 + len(self.described)

  def gather(self, value):
    return [value, *self.described]


def test_the_first_name_that_differs_is_told():
  others = Others(({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": "x"}))
  with pytest.raises(processes.DisagreementError) as caught:
    processes.check_same(others, {"a": 1, "b": 2, "c": 3})
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
  digests = set()
  for name, text in (("a.py", "x = 1\n"), ("a.py", "x = 2\n"), ("b.py", "")):
    (tmp_path / name).write_text(text)
    assert processes.digest(tmp_path) == processes.digest(tmp_path)
    digests.add(processes.digest(tmp_path))
  assert len(digests) == 3


def test_a_stop_is_obeyed_as_many_questions_later_in_every_process():
  connected = Connected()
  own = [None, 15, None, None, None]
  assert processes.DELAY == 2
  found = [connected.stop_signal(x) for x in own]
  assert found == [None, None, None, 15, None]
  assert ALONE.stop_signal(15) == 15
