"""Configs of earlier versions."""

import pytest

from flexivit_jax.config import build, retired
from flexivit_jax.core.errors import ConfigError

OPTAX = {"name": "optax", "learning_rate": 0.1}
FUSED = ["config.model.kernel is now fused, which has no fields"]


@pytest.mark.parametrize(
  ("old", "new", "lines"),
  [
    (
      {"model": {"kernel": {"name": "triton"}, "size": "S"}},
      {"model": {"kernel": "fused", "size": "S"}},
      FUSED,
    ),
    (
      {"model": {"distribution": {"name": "query_sharded", "gather": "x"}}},
      {"model": {"distribution": {"name": "query_sharded"}}},
      ["config.model.distribution.gather is gone and was left out"],
    ),
    (
      {"mesh": {"seq": 2, "double_averaging": True}},
      {"mesh": {"seq": 2}},
      ["config.mesh.double_averaging is gone and was left out"],
    ),
    (
      {"optimizer": OPTAX | {"transform": "adafactor", "options": {"eps": 9}}},
      {"optimizer": {"name": "adafactor", "eps": 9, "learning_rate": 0.1}},
      [],
    ),
  ],
)
def test_an_old_config_as_todays(old, new, lines):
  found = []
  assert retired.renewed(old, found.append) == new
  assert found == lines
  assert retired.renewed(new) == new


def test_a_run_of_a_retired_optimiser_opens_and_does_not_train():
  raw = build.to_json(build.load("configs/flexivit_digits.py"))
  lion = {"transform": "lion", "options": {"b1": 0.95}, "weight_decay": 0.5}
  raw["optimizer"] = OPTAX | lion
  experiment = build.from_plain(raw)
  assert experiment.optimizer.weight_decay == 0.5
  assert build.from_plain(build.to_json(experiment)) == experiment
  with pytest.raises(ValueError, match=r"optax's lion with b1 is gone. Set"):
    experiment.optimizer.build(10)


def test_a_dropped_field_is_told_when_a_file_is_read(tmp_path):
  config = tmp_path / "old.py"
  config.write_text(
    "from configs.flexivit_digits import get_config as new\n"
    "def get_config():\n"
    "  config = new()\n"
    "  config.mesh = dict(double_averaging=False)\n"
    "  return config\n"
  )
  lines = []
  build.load(str(config), (), lines.append)
  assert lines == ["config.mesh.double_averaging is gone and was left out"]
  with pytest.raises(ConfigError, match="no such key"):
    build.load(str(config), ("mesh.double_averaging=True",))
