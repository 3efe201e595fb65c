"""Settings by name."""

import pytest

from flexivit_jax.evaluation.settings import Setting


@pytest.mark.parametrize(
  ("setting", "name", "short", "at", "text"),
  [
    (
      Setting((8, 8), (24, 24)),
      *("8_at_24", "8", "24", "8x8 patches of 24x24 pixels"),
    ),
    (
      Setting((8, 6), (24, 48)),
      *("8x6_at_24x48", "8x6", "24x48", "8x6 patches of 24x48 pixels"),
    ),
    (
      Setting((16, 16), budget=64),
      *("16_budget_64", "16:64", "64 tokens", "16x16 patches, at most 64"),
    ),
    (Setting((4, 4)), "4", "4", "own size", "4x4 patches"),
  ],
)
def test_names(setting, name, short, at, text):
  assert setting.name == name
  assert setting.short_name == short
  assert setting.at == at
  assert str(setting) == text
