"""On what a benchmark ran."""

import os
import pathlib
import platform
from typing import Any

import jax

from flexivit_jax.checkpoints import provenance


def describe() -> dict[str, Any]:
  """Processor, cores, versions and commit, as JSON."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  models = []
  if cpuinfo.exists():
    lines = cpuinfo.read_text().splitlines()
    models = [x.split(": ")[1] for x in lines if x.startswith("model name")]
  about = provenance.describe()
  return {
    "processor": models[0] if models else platform.processor(),
    "cores": len(os.sched_getaffinity(0)),
    "devices": [d.device_kind for d in jax.devices()],
    "python": about["python"],
    "versions": about["versions"],
    "commit": about["commit"],
    "modified": about["modified"],
  }
