import socket

import pytest

from flexivit_jax.devices import launch
from flexivit_jax.devices.launch import Place


@pytest.mark.parametrize(
  ("nodes", "host"),
  [
    ("node001", "node001"),
    ("node001,other2", "node001"),
    ("node[001-015],other", "node001"),
    ("node[007,011-015]", "node007"),
    ("gpu-a-3,gpu-b-[1-2]", "gpu-a-3"),
  ],
)
def test_slurm_says_who_is_where(nodes, host):
  environment = {
    "SLURM_JOB_ID": "8193",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NODELIST": nodes,
  }
  assert launch.slurm_place(environment) == Place(host, 61_441, 8, 2)
  environment["SLURM_STEP_NUM_TASKS"] = "4"  # of a job of 8
  assert launch.slurm_place(environment).count == 4


def _start(port, index):
  place = Place("127.0.0.1", port, 2, index)
  launch.start(place, initialization_s=1, heartbeat_s=10)


def test_what_is_not_there_or_taken_is_refused():
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(launch.StartError, match=f"port {port} of this machine"):
      _start(port, index=0)
  with pytest.raises(launch.StartError, match=f"no process 0 at .*:{port} "):
    _start(port, index=1)
