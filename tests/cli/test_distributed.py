"""Arguments of a process of several, and refusals."""

import pytest

from flexivit_jax.cli import arguments, distributed
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.devices import launch
from flexivit_jax.devices.processes import ALONE


def _parse(*argv):
  parser = arguments.parser("")
  distributed.add_arguments(parser)
  return arguments.parse(parser, argv)[0]


ALL = ("--coordinator=host:9000", "--num_processes=4", "--process_id=3")


def test_one_process_is_alone_and_several_are_accepted():
  one = ("--coordinator=h:1", "--num_processes=1", "--process_id=0")
  for argv in ((), one):
    with distributed.started(_parse(*argv)) as processes:
      assert processes is ALONE
  distributed.check(_parse(*ALL))


@pytest.mark.parametrize(
  ("argv", "text"),
  [
    (ALL[:1], "--coordinator without --num_processes and --process_id: "),
    (ALL[1:], "--num_processes without --coordinator: "),
    (("--coordinator=host", *ALL[1:]), "--coordinator host: give HOST:PORT"),
    (("--coordinator=h:70000", *ALL[1:]), "h:70000: give HOST:PORT"),
    (
      (ALL[0], "--num_processes=0", "--process_id=0"),
      "--num_processes 0: give 1 or more",
    ),
    ((*ALL[:2], "--process_id=4"), "--process_id 4 of .* 4: give 0 to 3"),
    ((*ALL[:2], "--process_id=-1"), "--process_id -1 of .* 4: give 0 to 3"),
    ((*ALL, "--heartbeat_timeout=1"), "--heartbeat_timeout 1: give 2 or more"),
    (
      (*ALL, "--initialization_timeout=0"),
      "--initialization_timeout 0: give 1 or more",
    ),
    (("--distributed=slurm", *ALL), "and --coordinator: give one or the other"),
    (("--distributed=slurm",), "without SLURM_JOB_ID .*: start with srun, or"),
  ],
)
def test_what_does_not_belong_together_is_refused(argv, text, monkeypatch):
  for name in launch.SLURM:
    monkeypatch.delenv(name, raising=False)
  with pytest.raises(ConfigError, match=text):
    distributed.check(_parse(*argv))


@pytest.mark.parametrize(
  "word", ["--coordinator=h:1", "--process_id", "--distributed=slurm"]
)
def test_a_command_of_one_process_refuses_them(word):
  text = f"^{word.partition('=')[0]} is train.py's: .*, without$"
  with pytest.raises(ConfigError, match=text):
    distributed.refuse(["--checkpoint=x", word])
  distributed.refuse(["--checkpoint=--coordinator"])
