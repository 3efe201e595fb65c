"""results.json holds what was found, field by field."""

import dataclasses
import json
import math
import pathlib
import re

import invented_sweeps

from flexivit_jax.evaluation.report import results

DOC = pathlib.Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_every_number_of_a_sweep():
  sweep = invented_sweeps.grid()
  found = results.to_json(sweep)
  assert found["schema"] == 1
  for name in "checkpoint step model resize parameters data command".split():
    assert found[name] == getattr(sweep, name)
  assert found["classes"] == list(sweep.classes)
  assert found["provenance"] == sweep.provenance
  assert "answers" not in found
  assert len(found["points"]) == 30
  for written, point in zip(found["points"], sweep.points, strict=True):
    setting, cost = point.setting, vars(point.cost)
    median, p95 = point.cost.latency_s
    expected = vars(point) | cost | {"name": setting.name, "budget": None}
    expected |= {"latency_median_s": median, "latency_p95_s": p95}
    expected |= {k: list(getattr(setting, k)) for k in ("patch_hw", "image_hw")}
    for name in ("setting", "cost", "latency_s"):
      del expected[name]
    assert written == expected


def test_json_can_hold_it():
  sweep = invented_sweeps.small()
  point = dataclasses.replace(sweep.points[0], loss=math.nan)
  sweep = dataclasses.replace(
    sweep,
    points=(point, *sweep.points[1:]),
    provenance={"bits": (1.0, math.inf), "name": "\udcff"},
  )
  found = results.to_json(sweep)
  assert found["points"][0]["loss"] is None
  assert found["provenance"]["bits"] == [1.0, None]
  assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_points_that_a_report_would_replace(tmp_path):
  def others(sweep):
    return results.others(tmp_path, sweep)

  whole = invented_sweeps.small()
  part = dataclasses.replace(whole, points=whole.points[1:3])
  first, _, _, last = (p.setting.name for p in whole.points)
  path = tmp_path / "results.json"
  assert others(part) == []  # nothing there
  path.write_text(json.dumps(results.to_json(whole)))
  assert others(whole) == []
  assert others(part) == [first, last]
  # Of another way, other data or another step it has none of them.
  for change in ({"resize": "area"}, {"data": "others"}, {"step": 7}):
    other = dataclasses.replace(whole, **change)
    assert others(other) == [p.setting.name for p in whole.points]
  for text in ("", "{", "[]", '{"points": [1]}', '{"points": {"name": 1}}'):
    path.write_text(text)
    assert others(part) == []


def test_every_field_is_documented():
  found = results.to_json(invented_sweeps.small())
  documented = set(re.findall(r"^\| `(\w+)`", DOC.read_text(), re.MULTILINE))
  missing = {*found, *found["points"][0]} - documented
  assert missing == set()
